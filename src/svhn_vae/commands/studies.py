"""What is done with studies: report writes one's page, claims the verdicts of all. Imports no torch."""

import argparse
from pathlib import Path

from svhn_vae.report.claims import NOTE, gather, markdown, reasons, table
from svhn_vae.report.collect import read_runs
from svhn_vae.report.page import write_report
from svhn_vae.report.table import print_study, wide_console
from svhn_vae.runs.files import replacing
from svhn_vae.runs.installation import CONF, as_typed, program

EXPERIMENTS = CONF / "experiment" / "claims"


def report() -> None:
    """Writes a study's report, a page, and prints its table, best first: python src/report.py outputs/STUDY"""
    parser = argparse.ArgumentParser(prog=program(), description=as_typed(report.__doc__ or ""))
    parser.add_argument("study", type=Path, help="the study's folder, for instance outputs/demo")
    study = parser.parse_args().study
    if not read_runs(study):
        parser.error(f"{study} holds no runs: expected a study's folder, such as outputs/demo")
    print_study(study, wide_console())
    print(f"report:      {write_report(study)}")


def claims() -> None:
    """Prints what the runs of all studies say of the claims that experiments state: python src/claims.py"""
    parser = argparse.ArgumentParser(prog=program(), description=as_typed(claims.__doc__ or ""))
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
    console.print(table(found, console.width))
    for line in [*NOTE, *reasons(found), *found.damaged]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
