"""What it takes to make a study's runs again, what makes them unlike, and what they cost."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from svhn_vae.report.collect import Run


def command_of(folder: Path) -> str:
    """What was typed for a run, for a shell; its commit has the defaults. Empty where that was not kept."""
    try:
        words = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return f"python src/train.py {shlex.join(map(str, words))}" if isinstance(words, list) else ""


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
