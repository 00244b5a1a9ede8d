"""The table of claims: the verdicts of all studies, and what no study has tried yet."""

import re
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.table import Table
from rich.text import Text

from svhn_vae.errors import UserError
from svhn_vae.report.collect import read_runs
from svhn_vae.report.hypotheses import Verdict, parse, verdict_of
from svhn_vae.runs.files import read_json
from svhn_vae.runs.installation import as_typed

HEADER = ("study", "claim", "verdict", "effect", "margin", "seeds", "size")
NOTE = (
    "effect: how much better the runs do that the claim favours, + as claimed, with its 95 % interval; supported: all "
    "of this is above the margin; refuted: all is below; a negative margin allows them to be worse by as much.",
    "Each claim is tested by itself, nothing is corrected for their number: of 20 intervals one misses, by chance.",
)


class Claims(NamedTuple):
    """Verdicts with the names of their studies, in the order of these, and what could not be read, a line each."""

    found: list[tuple[str, Verdict]]
    damaged: list[str]


def gather(outputs: Path, experiments: Path) -> Claims:
    """Of studies under `outputs`, one level deep or two, and of experiments' YAML files whose study has no runs."""
    with_runs, without, damaged = {}, {}, []
    for path in [*outputs.glob("*/study.json"), *outputs.glob("*/*/study.json")]:
        name, runs, content = path.parent.relative_to(outputs).as_posix(), read_runs(path.parent), read_json(path)
        hypotheses = (content.get("hypotheses") or []) if content else None
        if not isinstance(hypotheses, list):
            damaged.append(f"{path} is damaged: expected hypotheses to be a list")
            with_runs[name] = []
        elif hypotheses:
            (with_runs if runs else without)[name] = [verdict_of(path.parent, runs, each) for each in hypotheses]
    untried: dict[str, list[Verdict]] = {}
    for path in sorted(experiments.glob("*.yaml")):
        try:
            name, waiting = not_run(path)
        except (UserError, yaml.YAMLError) as error:
            damaged.append(f"{path}: {' '.join(str(error).split())}")
        else:
            untried.setdefault(name, []).extend(waiting)
    by_study = {**without, **untried, **with_runs}
    return Claims([(name, verdict) for name in sorted(by_study) for verdict in by_study[name]], sorted(damaged))


def not_run(path: Path) -> tuple[str, list[Verdict]]:
    """The study of an experiment, and its hypotheses, with the command that would try them."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    commands = re.findall(r"^# (python .*)$", text, re.MULTILINE)
    command = commands[0] if commands else f"python src/train.py -m experiment={path.parent.name}/{path.stem}"
    waiting = [Verdict(parse(each), "not run", as_typed(command)) for each in content.get("hypotheses") or []]
    return str(content.get("study", path.stem)), waiting


# --- rows -----------------------------------------------------------------------------------------------------------


def row(study: str, one: Verdict) -> list[str]:
    effect = f"{one.effect_text} {one.asked.quantity}".strip()
    return [study, one.asked.claim, one.verdict, effect, f"{one.asked.margin:g}", str(one.num_seeds or ""), one.size]


def table(claims: Claims) -> Table:
    """For a terminal; the size is in Markdown alone."""
    found = Table(*HEADER[:-1], show_lines=True)
    for name, verdict in claims.found:
        found.add_row(*(Text(cell, overflow="fold") for cell in row(name, verdict)[:-1]))
    return found


def reasons(claims: Claims) -> list[str]:
    return [f"{name}, {one.asked.claim.rstrip('.')}: {one.reason}" for name, one in claims.found]


def markdown(claims: Claims) -> str:
    rows = [HEADER, ["---"] * len(HEADER), *(row(name, verdict) for name, verdict in claims.found)]
    lines = "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in rows)
    listed = "\n".join(f"- {_escaped(each)}" for each in [*reasons(claims), *claims.damaged])
    return "\n\n".join([lines, *NOTE, listed]) + "\n"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
