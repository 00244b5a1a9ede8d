"""What a study cost."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from svhn_vae.report.collect import Run, Variant

Seconds = float
GIB = 2**30


class Cost(NamedTuple):
    """Of some runs, together."""

    label: str
    num_runs: int
    training: Seconds  # as noted; of a continued run, its last part
    wall: Seconds  # from start to end, evaluation and pictures included, also of runs that did not finish
    images: float  # seen in training
    peak_gib: float | None  # the most that a run took of its device


def cost(label: str, runs: Sequence[Run]) -> Cost:
    noted = [run.cost for run in runs if run.cost]
    training = sum(one.get("seconds", 0.0) for one in noted)
    images = sum(one.get("seconds", 0.0) * one.get("images_per_second", 0.0) for one in noted)
    peaks = [peak for one in noted if (peak := one.get("peak_device_bytes"))]
    return Cost(label, len(runs), training, sum(map(duration, runs)), images, max(peaks) / GIB if peaks else None)


def costs(found: Sequence[Variant]) -> list[Cost]:
    return [cost(variant.label, [*variant.runs, *variant.unfinished]) for variant in found]


def duration(run: Run) -> Seconds:
    """From its last start to its end; 0 of a run that has none."""
    return max(0.0, run.facts.get("ended", 0.0) - run.facts.get("started", 0.0)) if "ended" in run.facts else 0.0


def span(runs: Sequence[Run]) -> tuple[str, str, Seconds] | None:
    """When the first run began, when the last one ended, and what lies between."""
    starts = [run.facts["started"] for run in runs if "started" in run.facts]
    ends = [run.facts["ended"] for run in runs if "ended" in run.facts]
    return (moment(min(starts)), moment(max(ends)), max(ends) - min(starts)) if starts and ends else None


def devices(runs: Sequence[Run]) -> str:
    return "; ".join(sorted({run.cost["device"] for run in runs if run.cost.get("device")}))


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def in_hours(seconds: Seconds) -> str:
    """For instance `1 h 05 min`, `3 min 20 s` or `12 s`."""
    if seconds >= 3600:
        return f"{seconds // 3600:,.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s" if seconds >= 60 else f"{seconds:.0f} s"
