"""The report of a study: index.html, one file that opens anywhere; beside it results.csv and figures/."""

import base64
import csv
import io
import re
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from markupsafe import Markup
from PIL import Image

from svhn_vae.errors import counted
from svhn_vae.report import plots
from svhn_vae.report.collect import Run, Variant, by_test_images, differing, read_runs, variants
from svhn_vae.report.hypotheses import verdict_of
from svhn_vae.report.ranking import (
    QUESTION,
    answer,
    effects,
    factors_of,
    interval_text,
    ranked,
    rankings_of,
)
from svhn_vae.report.table import gap_text, ranked_table
from svhn_vae.runs.files import read_json, replacing
from svhn_vae.runs.installation import as_typed

BREAKS = re.compile(r"(?<=[=_])|(?<=[.-])(?=[a-z])")  # where a long word may be broken
# Of the columns of results.csv.
PREFIXES = {"metrics": "", "parts": "part/", "baselines": "baseline/", "versions": "version/"}
PICTURES = {
    "samples": "Samples of the prior: with N(0, I) the same latents in each, where their number is the same",
    "reconstructions": "Validation images, below each row its reconstructions",
    "analogies": "Analogies: a validation image of each digit, and nine of its 1,000 noisy passes that differ much",
}
PLOTS = {
    "calibration": "Calibration: the actual error against sigma, coverage, and the variance of standardised residuals",
    "order_of_learning": "Order of learning: how much of each group of components is reconstructed, over epochs",
}
# Pixels of a magnified image and its gap, as pictures/sheet.py makes them, which needs torch; and as they are shown.
CELL, SMALL_CELL = 98, 33
ROWS, ROWS_OF_MANY = 10, 4  # of images in a picture
MANY = 12  # variants
STATES = {"done": "finished", "running": "still running", "new": "without a status"}


class Sheet(NamedTuple):
    label: str
    uri: str  # data:, empty where the run has no such picture


def write_report(study: Path) -> Path:
    """Writes the report of all that the study's folder holds so far, and returns the page; a report that was there is
    replaced file by file."""
    runs, asked, report = read_runs(study), read_json(study / "study.json"), study / "report"
    sections = [section(study, title, group, f"data{place}")
                for place, (title, group) in enumerate(by_test_images(runs).items(), 1)]  # fmt: skip
    asked |= {name: asked[name] if isinstance(asked.get(name), list) else [] for name in ("commands", "hypotheses")}
    found = [verdict_of(study, runs, content) for content in asked["hypotheses"]]
    tested = [(one, plots.verdict_drawing(one, f"verdict-{place:02}")) for place, one in enumerate(found, 1)]
    search = plots.search_drawing(study)
    label_of = {run.name: variant.label for one in sections for variant in one["variants"]
                for run in (*variant.runs, *variant.unfinished)}  # fmt: skip
    context = {
        "study": study.resolve().name,
        "folder": shlex.quote(str(study)),
        "question": asked.get("question") or QUESTION,
        "commands": [one for one in asked["commands"] if isinstance(one, dict) and "command" in one],
        "sections": sections,
        "verdicts": tested,
        "search": search,
        "unfinished": [(run, label_of[run.name]) for run in runs if not run.result],
        "written": time.time(),
        "state": state(runs),
        "warnings": warnings(runs),
        "cost": cost_of(runs),
        "runs": runs,
        "typed": {run.name: command_of(study / run.name) for run in runs},
        "colours": plots.COLOURS,
        "max_shown": plots.MAX_SHOWN,
        "num_grey": plots.NUM_OTHERS,
    }
    drawings = [one for part in sections for one in (*part["sides"], *part["checks"], *part["curves"])]
    drawings += [*(one for _, drawn in tested for one in drawn), *search]
    files = {report / "figures" / f"{drawing.name}.svg": drawing.svg for drawing in drawings}
    files[report / "results.csv"] = results(runs, label_of)
    files[report / "index.html"] = templates().get_template("page.html.j2").render(context)
    write_all(report, files)
    return report / "index.html"


def write_all(report: Path, files: Mapping[Path, str]) -> None:
    """And takes away the figures that an earlier report has left there."""
    for path, text in files.items():
        with replacing(path) as beside:  # in names of files there may be what no locale can read
            beside.write_text(text, encoding="utf-8", errors="surrogateescape")
    for old in {*(report / "figures").glob("*.svg")} - files.keys():
        old.unlink(missing_ok=True)


def section(study: Path, title: str, runs: Sequence[Run], name: str) -> dict[str, Any]:
    """What the page says of runs with the same test images; `name` begins those of its figures."""
    found = ranked(variants(runs))  # the best first
    rankings = rankings_of(study, found)
    finished = [variant for variant in found if variant.runs]
    known = [variant for variant in found if variant.settings]
    apart = differing([variant.settings for variant in known])
    groups = list(dict.fromkeys(group for variant in known for group in variant.choices))
    factors = factors_of([variant.settings for variant in known], groups)
    scores = [{} if variant.num_diverged else variant.scores() for variant in known]
    return {
        "title": title,
        "variants": found,
        "rankings": rankings,
        "answer": answer(found, rankings),
        "table": ranked_table(found, rankings),
        "sides": plots.sides(found, rankings, name),
        "training_images": next(filter(None, (webp(_sheet(study, one, "data"), ROWS_OF_MANY) for one in finished)), ""),
        "sheets": sheets(study, finished, PICTURES),
        "checks": plots.predictive_checks(found, name),
        "plots": sheets(study, finished, PLOTS),
        "differing": apart,
        "shared": {key: text for key, text in known[0].settings.items() if key not in apart} if known else {},
        "factors": list(factors),
        "effects": effects(factors, scores),
        "num_empty": scores.count({}),
        "curves": plots.learning_curves(study, found, name),
    }


def state(runs: Sequence[Run]) -> str:
    """How many runs there are and what became of them, for instance `4 runs: 3 finished, 1 diverged.`"""
    of_status = Counter(run.status for run in runs)
    parts = [f"{num} {STATES.get(status, status)}" for status, num in of_status.most_common()]
    return f"{counted(len(runs), 'run')}: {', '.join(parts)}."


def warnings(runs: Sequence[Run]) -> list[str]:
    """What makes runs of one study unlike each other beyond their settings, or hard to make again."""
    said, changed = [], [run for run in runs if run.commit.endswith("+")]
    commits = sorted({run.commit for run in runs if run.commit})
    if len({commit.rstrip("+") for commit in commits}) > 1:
        said.append(f"The runs were made by different commits, {', '.join(commits)}: they may differ in the code.")
    if changed:
        said.append(f"{len(changed)} of {len(runs)} runs were made by files that were changed since their commit (+).")
    said += [f"{run.name}: {run.reason}." for run in runs if run.result and run.reason]
    images = sorted({run.test_images for run in runs if run.test_images})
    if len(images) > 1:
        said.append(f"The runs were tested on different images, {', '.join(images)}: each have tables of their own.")
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.result.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    said += [f"The runs were made with different versions of {name}: {', '.join(sorted(of))}."
             for name, of in versions.items() if len(of) > 1]  # fmt: skip
    devices = sorted({run.cost["device"] for run in runs if run.cost.get("device")})
    if len(devices) > 1:
        said.append(f"The runs were trained on different devices, {'; '.join(devices)}: their times do not compare.")
    return said


def cost_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Of some runs, together: seconds of training as noted, and from start to end, evaluation and pictures included,
    also of runs that did not finish; images seen in training; the most GiB that a run took of its device, 0 where that
    was not noted; devices; and when the first run began and the last one ended."""
    costs, ended = [run.cost for run in runs], [run.facts for run in runs if {"started", "ended"} <= run.facts.keys()]
    return {
        "training": sum(one.get("seconds", 0.0) for one in costs),
        "wall": sum(max(0.0, facts["ended"] - facts["started"]) for facts in ended),
        "images": sum(one.get("seconds", 0.0) * one.get("images_per_second", 0.0) for one in costs),
        "peak_gib": max((one.get("peak_device_bytes") or 0 for one in costs), default=0) / 2**30,
        "devices": "; ".join(sorted({one["device"] for one in costs if one.get("device")})),
        "span": (min(of["started"] for of in ended), max(of["ended"] for of in ended)) if ended else None,
    }


def command_of(folder: Path) -> str:
    """What was typed for a run, for a shell; its commit has the defaults. Empty where that was not kept."""
    try:
        words = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return f"{as_typed('python src/train.py')} {shlex.join(map(str, words))}" if isinstance(words, list) else ""


# --- the runs' pictures ---------------------------------------------------------------------------------------------


def sheets(study: Path, found: Sequence[Variant], kinds: Mapping[str, str]) -> list[tuple[str, list[Sheet]]]:
    """What is shown, and a picture of the first finished run of each variant; what no run has is left out."""
    num_rows = ROWS if len(found) <= MANY else ROWS_OF_MANY
    shown = []
    with ThreadPoolExecutor() as pool:  # Pillow reads and writes outside Python's lock
        for kind, what in kinds.items():
            uris = pool.map(lambda one, kind=kind: webp(_sheet(study, one, kind), num_rows), found)
            shown.append((what, [Sheet(one.label, uri) for one, uri in zip(found, uris, strict=True)]))
    return [(what, pictures) for what, pictures in shown if any(sheet.uri for sheet in pictures)]


def _sheet(study: Path, variant: Variant, kind: str) -> Path:
    return study / variant.runs[0].name / "figures" / f"{kind}.png"


def webp(path: Path, num_rows: int) -> str:
    """The first rows of a sheet without magnification and caption, or a whole plot; empty where there is no picture or
    a damaged one."""
    file = io.BytesIO()
    try:
        with Image.open(path) as image:
            columns, rows = image.width // CELL, min(image.height // CELL, num_rows)
            if image.width % CELL == 0 and rows:  # a sheet: of each pixel that was magnified, the nearest one is kept
                sheet = image.crop((0, 0, image.width, rows * CELL))
                image = sheet.resize((columns * SMALL_CELL, rows * SMALL_CELL), Image.Resampling.NEAREST)
            image.convert("RGB").save(file, "WEBP", quality=75, method=2)
    except (OSError, SyntaxError, ValueError):
        return ""
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


# --- files ----------------------------------------------------------------------------------------------------------


def results(runs: Sequence[Run], label_of: Mapping[str, str]) -> str:
    """A table for programs: a row per run, whatever became of it, and a column for every number and setting of any."""
    rows = [_flat(run, label_of[run.name]) for run in runs]
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


def _flat(run: Run, label: str) -> dict[str, Any]:
    row = {"run": run.name, "variant": label, "status": run.status, "reason": run.reason}
    row |= {"step": run.facts.get("step"), "seed": run.seed, "commit": run.commit}
    row |= {"test images": run.test_images, "training images": run.train_images}
    for part, prefix in PREFIXES.items():
        row |= {f"{prefix}{key}": value for key, value in (run.result.get(part) or {}).items()}
    return row | {f"cost/{key}": value for key, value in run.cost.items()} | run.settings


def templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "moment": lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)),
        "hours": lambda seconds: str(timedelta(seconds=round(seconds))),
    }
    environment.globals |= {"interval": interval_text, "gap": gap_text, "counted": counted}
    return environment


def breakable(text: str) -> Markup:
    """Broken between its words, and within one only where it is longer than the line."""
    words = [Markup("<wbr>").join(BREAKS.split(word)) for word in str(text).split(" ")]
    return Markup(" ").join(Markup('<span class="word">{}</span>').format(word) for word in words)
