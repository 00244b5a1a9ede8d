"""The report of a study: index.html, one file that opens anywhere; beside it report.md, results.csv and figures/."""

import csv
import io
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from svhn_vae.report import cost, verdict_plot
from svhn_vae.report.answer import QUESTION, state
from svhn_vae.report.claims import effect_text
from svhn_vae.report.collect import Run, by_data, read_runs
from svhn_vae.report.figures import NUM_OTHERS
from svhn_vae.report.hypotheses import Verdict, verdicts
from svhn_vae.report.ranked_table import interval_text
from svhn_vae.report.reproduce import recipes, warnings
from svhn_vae.report.section import Section, section
from svhn_vae.report.svg import MAX_SHOWN, Drawing, drawn, styled
from svhn_vae.runs.files import read_json, replacing

VERDICT = "Each dot a run, the bars their means; right: the effect with its 95 % interval, dashed the margin."
PLACES = re.compile(r"(?<=[=_])|(?<=\.)(?=[a-z])")  # where a long word may be broken
PREFIXES = {"metrics": "", "parts": "part/", "baselines": "baseline/"}  # of the columns of results.csv


class Tested(NamedTuple):
    """A hypothesis and its runs."""

    verdict: Verdict
    effect: str
    drawing: Drawing | None  # where there are runs to be drawn


def write_report(study: Path) -> Path:
    """Writes the report of all that the study's folder holds so far, and returns the page; a report that was there is
    replaced file by file."""
    runs, asked = read_runs(study), read_json(study / "study.json")
    groups = by_data(runs).items()
    sections = [section(study, title, group, f"data{place}") for place, (title, group) in enumerate(groups, 1)]
    found = verdicts(study, runs, asked.get("hypotheses") or [])
    tested = [_tested(one, place) for place, one in enumerate(found, 1)]
    label_of = labels_of(sections)
    context = {
        "study": study.resolve().name,
        "folder": str(study),
        "question": asked.get("question") or QUESTION,
        "commands": [one for one in asked.get("commands", []) if isinstance(one, dict) and "command" in one],
        "sections": sections,
        "verdicts": tested,
        "unfinished": [(run, label_of[run.name]) for run in runs if not run.result],
        **of_all(runs),
    }
    report, environment = study / "report", templates()
    write_figures(report / "figures", [*_drawings(sections), *(one.drawing for one in tested if one.drawing)])
    write_text(report / "results.csv", results(runs, label_of))
    write_text(report / "report.md", environment.get_template("report.md.j2").render(context))
    write_text(report / "index.html", environment.get_template("page.html.j2").render(context))
    return report / "index.html"


def of_all(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page says of all runs together, whatever their data."""
    return {
        "written": cost.moment(time.time()),
        "state": state(runs),
        "warnings": warnings(runs),
        "cost": cost.cost("all", runs),
        "span": cost.span(runs),
        "devices": cost.devices(runs),
        "recipes": recipes(runs),
        "max_shown": MAX_SHOWN,
        "num_grey": NUM_OTHERS,
    }


def _tested(verdict: Verdict, place: int) -> Tested:
    effect = effect_text(verdict.effect) if verdict.effect else ""
    if not verdict.favoured and not verdict.other:
        return Tested(verdict, effect, None)
    alt = f"the runs that the claim is about, and the effect; {verdict.verdict}: {verdict.claim}"
    with styled():
        drawing = drawn(verdict_plot.draw(verdict), f"verdict-{place:02}", VERDICT, alt)
    return Tested(verdict, effect, drawing)


def _drawings(sections: Sequence[Section]) -> Iterable[Drawing]:
    for one in sections:
        yield from one.curves
        for multiple in one.multiples:
            yield from multiple.drawings


def labels_of(sections: Sequence[Section]) -> dict[str, str]:
    """Run -> its variant."""
    found = (variant for one in sections for variant in one.variants)
    return {run.name: variant.label for variant in found for run in (*variant.runs, *variant.unfinished)}


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text)


def write_figures(folder: Path, drawings: Sequence[Drawing]) -> None:
    """And takes away what an earlier report has left there."""
    written = {f"{drawing.name}.svg" for drawing in drawings}
    for drawing in drawings:
        write_text(folder / f"{drawing.name}.svg", drawing.svg)
    for old in folder.glob("*.svg"):
        if old.name not in written:
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
    row |= {"step": run.facts.get("step"), "seed": run.seed, "data": run.digest, "commit": run.commit}
    for part, prefix in PREFIXES.items():
        row |= {f"{prefix}{key}": value for key, value in run.result.get(part, {}).items()}
    return row | {f"cost/{key}": value for key, value in run.cost.items()} | run.settings


def templates() -> jinja2.Environment:
    """What runs say is text: escaped in the page, and made harmless in Markdown's tables by `cell`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": lambda text: " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;"),
        "breakable": breakable,
        "moment": cost.moment,
        "hours": cost.in_hours,
        "listed": listed,
        "interval": lambda found, form=".3f": interval_text(found, form),
    }
    return environment


def listed(state: Mapping[str, Any]) -> str:
    """What is known of the moment at which a run diverged."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in state.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def breakable(text: str) -> Markup:
    """Broken between its words, and within one only where it is longer than the line."""
    words = [Markup("<wbr>").join(PLACES.split(word)) for word in str(text).split(" ")]
    return Markup(" ").join(Markup('<span class="word">{}</span>').format(word) for word in words)
