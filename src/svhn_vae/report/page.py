"""The report of a study: index.html, one file that opens anywhere; beside it results.csv and figures/."""

import base64
import csv
import io
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from svhn_vae.report import reproduce
from svhn_vae.report.collect import Run, Variant, by_test_images, differing, read_runs, variants
from svhn_vae.report.effects import effects_of
from svhn_vae.report.hypotheses import effect_text, verdicts
from svhn_vae.report.plots import (
    COLOURS,
    MAX_SHOWN,
    NUM_OTHERS,
    Drawing,
    learning_curves,
    predictive_checks,
    search_drawing,
    sides,
    verdict_drawing,
)
from svhn_vae.report.ranking import QUESTION, SIDES, answer, rank, ranked, state
from svhn_vae.report.table import gap_text, interval_text, ranked_table
from svhn_vae.runs.files import read_json, replacing

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


class Sheet(NamedTuple):
    label: str
    uri: str  # data:, empty where the run has no such picture


def write_report(study: Path) -> Path:
    """Writes the report of all that the study's folder holds so far, and returns the page; a report that was there is
    replaced file by file."""
    runs, asked = read_runs(study), read_json(study / "study.json")
    sections = [section(study, title, group, f"data{place}")
                for place, (title, group) in enumerate(by_test_images(runs).items(), 1)]  # fmt: skip
    asked |= {name: asked[name] if isinstance(asked.get(name), list) else [] for name in ("commands", "hypotheses")}
    tested = [
        (one, effect_text(one.effect) if one.effect else "", verdict_drawing(one, f"verdict-{place:02}"))
        for place, one in enumerate(verdicts(study, runs, asked["hypotheses"]), 1)
    ]
    label_of = {run.name: variant.label for one in sections for variant in one["variants"]
                for run in (*variant.runs, *variant.unfinished)}  # fmt: skip
    context = {
        "study": study.resolve().name,
        "folder": shlex.quote(str(study)),
        "question": asked.get("question") or QUESTION,
        "commands": [one for one in asked["commands"] if isinstance(one, dict) and "command" in one],
        "sections": sections,
        "verdicts": tested,
        "search": search_drawing(study),
        "unfinished": [(run, label_of[run.name]) for run in runs if not run.result],
        "written": time.time(),
        "state": state(runs),
        "warnings": reproduce.warnings(runs),
        "cost": reproduce.cost_of(runs),
        "devices": "; ".join(reproduce.devices_of(runs)),
        "runs": runs,
        "typed": {run.name: reproduce.command_of(study / run.name) for run in runs},
        "colours": COLOURS,
        "max_shown": MAX_SHOWN,
        "num_grey": NUM_OTHERS,
    }
    drawings = [one for part in sections for one in (*part["sides"], *part["checks"], *part["curves"])]
    drawings += [drawn for drawn in (*(one[-1] for one in tested), context["search"]) if drawn]
    write_figures((report := study / "report") / "figures", drawings)
    write_text(report / "results.csv", results(runs, label_of))
    write_text(report / "index.html", templates().get_template("page.html.j2").render(context))
    return report / "index.html"


def section(study: Path, title: str, runs: Sequence[Run], name: str) -> dict[str, Any]:
    """What the page says of runs with the same test images; `name` begins those of its figures."""
    found = ranked(variants(runs))  # the best first
    rankings = [ranking for metric in SIDES if (ranking := rank(study, found, metric))]
    finished = [variant for variant in found if variant.runs]
    known = [variant.settings for variant in found if variant.settings]
    apart = differing(known)
    return {
        "title": title,
        "variants": found,
        "rankings": rankings,
        "answer": answer(found, rankings),
        "table": ranked_table(found, rankings),
        "sides": sides(found, rankings, name),
        "training_images": next(filter(None, (webp(_sheet(study, one, "data"), ROWS_OF_MANY) for one in finished)), ""),
        "sheets": sheets(study, finished, PICTURES),
        "checks": predictive_checks(found, name),
        "plots": sheets(study, finished, PLOTS),
        "differing": apart,
        "shared": {key: text for key, text in known[0].items() if key not in apart} if known else {},
        "effects": effects_of(found),
        "curves": learning_curves(study, found, name),
    }


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


def write_text(path: Path, text: str) -> None:
    """In UTF-8, and names of files that a locale cannot read as they are."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_figures(folder: Path, drawings: Sequence[Drawing]) -> None:
    """And takes away what an earlier report has left there."""
    for drawing in drawings:
        write_text(folder / f"{drawing.name}.svg", drawing.svg)
    for old in {*folder.glob("*.svg")} - {folder / f"{drawing.name}.svg" for drawing in drawings}:
        old.unlink(missing_ok=True)


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
        "moment": reproduce.moment,
        "hours": reproduce.in_hours,
        "listed": listed,
    }
    environment.globals |= {"interval": interval_text, "gap": gap_text}
    return environment


def listed(state: Mapping[str, Any]) -> str:
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in state.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def breakable(text: str) -> Markup:
    """Broken between its words, and within one only where it is longer than the line."""
    words = [Markup("<wbr>").join(BREAKS.split(word)) for word in str(text).split(" ")]
    return Markup(" ").join(Markup('<span class="word">{}</span>').format(word) for word in words)
