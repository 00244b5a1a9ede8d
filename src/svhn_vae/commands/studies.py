"""What is done with studies: report writes one's page, claims prints the verdicts of all, runs lists what is there, and
clean deletes what failed. Imports no torch."""

import math
import shutil
import time
from pathlib import Path

from svhn_vae.errors import Busy, UserError, counted
from svhn_vae.report.claims import NOTE, gather, markdown, reasons, table
from svhn_vae.report.collect import METRIC, read_runs
from svhn_vae.report.page import write_report
from svhn_vae.report.table import Fitted, print_study, wide_console
from svhn_vae.runs.files import locked, replacing
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.installation import CONF, parser_of

EXPERIMENTS = CONF / "experiment" / "claims"


def report() -> None:
    """Writes a study's report, a page, and prints its table, best first: python src/report.py outputs/STUDY"""
    parser = parser_of(report.__doc__)
    parser.add_argument("study", type=Path, help="the study's folder, for instance outputs/demo")
    study = parser.parse_args().study
    if not read_runs(study):
        parser.error(f"{study} holds no runs: expected a study's folder, such as outputs/demo")
    print_study(study, wide_console())
    print(f"report:      {write_report(study)}")


def claims() -> None:
    """Prints what the runs of all studies say of the claims that experiments state: python src/claims.py"""
    parser = parser_of(claims.__doc__)
    parser.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"), help="the folder of the studies")
    parser.add_argument(
        "--experiments", type=Path, default=EXPERIMENTS, help="the folder of those that may not have run"
    )
    parser.add_argument("--markdown", action="store_true", help="prints what is in claims.md")
    asked = parser.parse_args()
    if not asked.outputs.is_dir():
        parser.error(f"no folder {asked.outputs}: expected the folder of the studies, such as outputs")
    found = gather(asked.outputs, asked.experiments)
    if not found.found and not found.damaged:
        parser.exit(
            1, f"no claims: neither a study under {asked.outputs} nor {asked.experiments} states a hypothesis\n"
        )
    text = markdown(found)
    with replacing(asked.outputs / "claims.md") as beside:
        beside.write_text(text, encoding="utf-8")
    if asked.markdown:
        print(text, end="")
        return
    console = wide_console()
    console.print(table(found))
    for line in [*NOTE, *reasons(found), *found.damaged]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def runs() -> None:
    """Lists all studies and their runs: status, age, bits per dimension, size on the disk: svhn-vae runs"""
    parser = parser_of(runs.__doc__)
    parser.add_argument("outputs", type=Path, nargs="?", default=Path("outputs"), help="the folder of the studies")
    outputs = parser.parse_args().outputs
    if not outputs.is_dir():
        parser.error(f"no folder {outputs}: expected the folder of the studies, such as outputs")
    rows = []
    for study in sorted(path for path in outputs.iterdir() if path.is_dir()):
        if found := read_runs(study):
            best = min((run.number("metrics", METRIC) for run in found if run.result), default=math.nan)
            rows.append((f"{study.name}/", counted(len(found), "run"), "", f"best {best:.3f}", megabytes(study)))
        for run in found:
            figure, place = run.number("metrics", METRIC), study / run.name
            rows.append((run.name, run.status, age(RunFolder(place)), f"{figure:.3f}", megabytes(place)))
    wide_console().print(Fitted("", ("study and run", "status", "age", "bits/dim", "MB"), rows, (3, 1, 2, 4)))


def age(folder: RunFolder) -> str:
    """Since it ended, or else began."""
    seconds = time.time() - folder.facts.get("ended", folder.facts.get("started", time.time()))
    for unit, length in {"d": 86400, "h": 3600, "min": 60}.items():
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:,.1f}"


def clean() -> None:
    """Says which run folders it would delete: those that failed, and those that are named. svhn-vae clean yes=true
    deletes them. A finished, diverged or interrupted run goes only where it is named."""
    parser = parser_of(clean.__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="FOLDER", help="runs to delete, such as outputs/demo/NAME; yes=true"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder of the studies")
    asked = parser.parse_args()
    named = [Path(word) for word in asked.words if word not in ("yes=true", "yes=false")]
    for path in named:
        if path.is_symlink() or not RunFolder(path).facts:
            raise UserError(f"{path}: expected a run's folder, such as outputs/demo/NAME: svhn-vae runs lists them")
    failed = [path for path in sorted(asked.outputs.glob("*/*")) if RunFolder(path).facts.get("status") == "failed"]
    chosen = list(dict.fromkeys([*failed, *named]))
    for path in chosen:
        print(f"{path}: {RunFolder(path).facts['status']}, {megabytes(path)} MB")
        if "yes=true" in asked.words:
            delete(path)
    print("nothing to delete" if not chosen else "deleted" if "yes=true" in asked.words else "yes=true deletes these")


def delete(path: Path) -> None:
    """A run folder, unless a process is writing to it."""
    try:
        with locked(path):
            shutil.rmtree(path)
    except Busy as busy:
        print(f"  left alone: {busy}")
