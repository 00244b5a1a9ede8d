"""What it takes to make a study's runs again, what makes them unlike, and what they cost."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def cost_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Of some runs, together: seconds of training as noted, and from start to end, evaluation and pictures included,
    also of runs that did not finish; images seen in training; the most GiB that a run took of its device, 0 where that
    was not noted; and when the first run began and the last one ended."""
    costs, ended = [run.cost for run in runs], [run.facts for run in runs if {"started", "ended"} <= run.facts.keys()]
    starts, ends = ([facts[name] for facts in ended] for name in ("started", "ended"))
    return {
        "training": sum(one.get("seconds", 0.0) for one in costs),
        "wall": sum(max(0.0, end - start) for start, end in zip(starts, ends, strict=True)),
        "images": sum(one.get("seconds", 0.0) * one.get("images_per_second", 0.0) for one in costs),
        "peak_gib": max((one.get("peak_device_bytes") or 0 for one in costs), default=0) / 2**30,
        "span": (min(starts), max(ends)) if ended else None,
    }


def devices_of(runs: Sequence[Run]) -> list[str]:
    return sorted({run.cost["device"] for run in runs if run.cost.get("device")})
