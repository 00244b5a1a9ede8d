"""Learning curves, from the history.csv of each run.

Shapes: n points of a curve, at most MAX_POINTS.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from svhn_vae.report.collect import Variant

MAX_POINTS = 200
METRICS = ("val/bits_per_dim", "val/negative_elbo", "train/bits_per_dim", "val/kl", "val/active_units")
PLACE = ("epoch", "seconds")


class Curve(NamedTuple):
    epochs: np.ndarray  # (n,)
    seconds: np.ndarray  # (n,): since training began
    values: np.ndarray  # (n,): NaN where they are not finite


class Learning(NamedTuple):
    """One metric of one variant."""

    mean: Curve  # over seeds, as far as all of them go
    seeds: list[Curve]  # of each run, if there are several
    ended: list[Curve]  # of the runs that diverged, which are in no mean


def learning(study: Path, variant: Variant) -> dict[str, Learning]:
    """Metric -> its curves; {} where no run has any, as before there were such files."""
    of_runs = [read(study / run.name / "history.csv") for run in variant.runs]
    diverged = [run for run in variant.unfinished if run.status == "diverged"]
    of_diverged = [read(study / run.name / "history.csv") for run in diverged]
    return {name: found for name in METRICS if (found := _of_metric(name, of_runs, of_diverged))}


def _of_metric(name: str, of_runs: list[dict[str, Curve]], of_diverged: list[dict[str, Curve]]) -> Learning | None:
    finished = [curves[name] for curves in of_runs if name in curves]
    ended = [thinned(curves[name]) for curves in of_diverged if name in curves]
    if not finished and not ended:
        return None
    seeds = [thinned(curve) for curve in finished] if len(finished) > 1 else []
    return Learning(thinned(mean(finished)), seeds, ended)


def read(path: Path) -> dict[str, Curve]:
    """Metric -> its curve, where it was logged; {} where there is no such file or a damaged one."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            metrics = [name for name in METRICS if name in header]
            wanted = [header.index(name) for name in (*PLACE, *metrics)]
            table = np.array([[float(row[at] or "nan") for at in wanted] for row in rows], dtype=float)
    except (OSError, ValueError, IndexError):
        return {}
    if not len(table):
        return {}
    columns = dict(zip(metrics, table.T[len(PLACE) :], strict=True))
    logged = {name: ~np.isnan(values) for name, values in columns.items()}
    return {
        name: Curve(*table.T[: len(PLACE), logged[name]], values[logged[name]])
        for name, values in columns.items()
        if logged[name].any()
    }


def mean(curves: Sequence[Curve]) -> Curve:
    """At the epochs that all have; seconds are averaged, too."""
    if not curves:
        return Curve(*np.empty((3, 0)))
    common = curves[0].epochs
    for curve in curves[1:]:
        common = np.intersect1d(common, curve.epochs)
    kept = [[column[np.isin(curve.epochs, common)] for column in curve] for curve in curves]
    return Curve(*(np.mean(columns, axis=0) for columns in zip(*kept, strict=True)))


def thinned(curve: Curve) -> Curve:
    """At most MAX_POINTS of it, the first and the last among them."""
    num = len(curve.epochs)
    kept = np.unique(np.linspace(0, num - 1, min(num, MAX_POINTS)).round().astype(int))
    return Curve(*(column[kept] for column in curve))


def limits(values: Sequence[Sequence[float]], most: float) -> tuple[float, float] | None:
    """Where an axis should end so that the share `most` of the values, the lower ones, is seen well: a single image may
    spike a curve, and where a curve begins tells little of where it ends. None where there are no values."""
    pooled = np.concatenate([np.empty(0), *values])
    pooled = pooled[np.isfinite(pooled)]
    if not len(pooled):
        return None
    low, high = np.quantile(pooled, [0.02, most])
    reach = max(high - low, 0.03 * abs(high), 1e-9)
    bottom = pooled.min() if pooled.min() > low - 0.5 * reach else low - 0.1 * reach
    top = pooled.max() if pooled.max() < high + 0.5 * reach else high + 0.2 * reach
    return float(bottom - 0.03 * reach), float(top + 0.03 * reach)
