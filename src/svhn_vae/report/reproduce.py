"""What it takes to make a study's runs again, what makes them unlike, and what they cost."""

import json
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from svhn_vae.report.collect import Run, differing
from svhn_vae.runs.identity import flatten

WORD = re.compile(
    r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_/.][\w/.+@-]*|\d+-\w+", re.IGNORECASE | re.ASCII
)  # and 32-true
PLACES = ("data.root", "data.verify")  # no part of a run's identity, but without them a command would download


class Recipes(NamedTuple):
    """How to make each run again, in a shell; empty where its configuration is not known."""

    shared: str  # a line that comes first: the overrides of every run
    commands: list[str]  # of each run


def recipes(runs: Sequence[Run]) -> Recipes:
    """Every setting is written out: which are the defaults, a report cannot know, and they may change."""
    settings = [_written_out(run) for run in runs]
    known = [one for one in settings if one]
    apart = differing([{key: _typed(value) for key, value in one.items()} for one in known])
    commands = [_command(run, one, apart) for run, one in zip(runs, settings, strict=True)]
    shared = {key: value for key, value in known[0].items() if key not in apart} if known else {}
    return Recipes(f"shared=({overrides(shared)})" if known else "", commands)


def _written_out(run: Run) -> dict[str, Any]:
    values = flatten(run.config)
    return run.settings | {key: values[key] for key in PLACES if key in values} if run.config else {}


def _command(run: Run, settings: Mapping[str, Any], apart: Sequence[str]) -> str:
    own = {key: value for key, value in settings.items() if key in apart} | {"seed": run.seed}
    return f'python src/train.py "${{shared[@]}}" {overrides(own)}' if settings else ""


def overrides(settings: Mapping[str, Any]) -> str:
    """As train.py takes them, quoted for a shell."""
    return " ".join(shlex.quote(f"{key}={_typed(value)}") for key, value in settings.items())


def _typed(value: Any) -> str:
    """In Hydra's grammar, where a word needs no quotes."""
    if isinstance(value, str):
        quoted = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", "\\'")  # a backslash counts only before a quote
        return value if WORD.fullmatch(value) else f"'{quoted}'"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return json.dumps(value)


def warnings(runs: Sequence[Run]) -> list[str]:
    """What makes runs of one study unlike each other beyond their settings, or hard to make again."""
    found = []
    commits = sorted({run.commit for run in runs if run.commit})
    if len({commit.rstrip("+") for commit in commits}) > 1:
        found.append(f"The runs were made by different commits, {', '.join(commits)}: they may differ in the code.")
    changed = [run for run in runs if run.commit.endswith("+")]
    if changed:
        found.append(f"{len(changed)} of {len(runs)} runs were made by files that were changed since their commit (+).")
    found += [f"{run.name}: {run.reason}." for run in runs if run.result and run.reason]
    images = sorted({run.test_images for run in runs if run.test_images})
    if len(images) > 1:
        found.append(f"The runs were tested on different images, {', '.join(images)}: each have tables of their own.")
    versions = [run.result.get("versions", {}) for run in runs]
    for name in dict.fromkeys(name for one in versions for name in one):
        different = sorted({one[name] for one in versions if name in one})
        if len(different) > 1:
            found.append(f"The runs were made with different versions of {name}: {', '.join(different)}.")
    devices = devices_of(runs)
    if len(devices) > 1:
        found.append(f"The runs were trained on different devices, {'; '.join(devices)}: their times do not compare.")
    return found


# --- cost -----------------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of some runs, together; times in seconds."""

    training: float  # as noted; of a continued run, its last part
    wall: float  # from start to end, evaluation and pictures included, also of runs that did not finish
    images: float  # seen in training
    peak_gib: float  # the most that a run took of its device; 0 where it was not noted
    span: tuple[float, float] | None  # when the first run began and the last one ended


def cost_of(runs: Sequence[Run]) -> Cost:
    costs, ended = [run.cost for run in runs], [run.facts for run in runs if {"started", "ended"} <= run.facts.keys()]
    starts, ends = ([facts[name] for facts in ended] for name in ("started", "ended"))
    return Cost(
        sum(one.get("seconds", 0.0) for one in costs),
        sum(max(0.0, end - start) for start, end in zip(starts, ends, strict=True)),
        sum(one.get("seconds", 0.0) * one.get("images_per_second", 0.0) for one in costs),
        max((one.get("peak_device_bytes") or 0 for one in costs), default=0) / 2**30,
        (min(starts), max(ends)) if ended else None,
    )


def devices_of(runs: Sequence[Run]) -> list[str]:
    return sorted({run.cost["device"] for run in runs if run.cost.get("device")})


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def in_hours(seconds: float) -> str:
    """For instance `1 h 05 min`, `3 min 20 s` or `12 s`."""
    if seconds >= 3600:
        return f"{seconds // 3600:,.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
