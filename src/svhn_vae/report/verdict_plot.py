"""A verdict as a picture: the runs that were compared, the effect with its interval and, dashed, the margin."""

import math
import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from svhn_vae.report.hypotheses import Drawn, Verdict
from svhn_vae.report.matching import DIVERGED
from svhn_vae.report.svg import colour

MAX_ROWS = 12  # of settings; with more, all runs of a side stand in one
WIDTH, HEIGHT, ROW_HEIGHT = 6.2, 1.3, 0.32  # inches


def draw(verdict: Verdict) -> Figure:
    """Call it within `svg.styled`, in which it is written, too. The favoured runs have the first colour."""
    settings = list(dict.fromkeys(setting for setting, _, _ in [*verdict.favoured, *verdict.other]))
    has_rows = len(settings) <= MAX_ROWS
    rows = {setting: row if has_rows else 0 for row, setting in enumerate(settings)}
    last = max(rows.values(), default=0)
    figure = Figure(figsize=(WIDTH, HEIGHT + ROW_HEIGHT * last), layout="constrained")
    runs, effect = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_runs(runs, verdict, rows)
    runs.set_yticks(list(rows.values()) if has_rows else [], list(rows) if has_rows else [])
    runs.set(ylim=(last + 0.6, -0.6), xlabel=verdict.metric)
    _draw_effect(effect, verdict)
    for axes in (runs, effect):
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def _draw_runs(axes: Axes, verdict: Verdict, rows: dict[str, int]) -> None:
    """A dot for each run, a bar at the mean of each side, a line between runs of the same seed and settings."""
    shift = 0.18 if verdict.other else 0.0
    sides = [(verdict.favoured, -shift, verdict.favours), (verdict.other, shift, verdict.over)]
    for side, (points, offset, name) in enumerate(sides):
        if points:
            _draw_side(axes, points, {setting: row + offset for setting, row in rows.items()}, colour(side), name)
    if verdict.metric != DIVERGED:
        _draw_pairs(axes, verdict, {setting: (row - shift, row + shift) for setting, row in rows.items()})
    if axes.lines:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0)


def _draw_side(axes: Axes, points: Drawn, at: dict[str, float], color: str, name: str) -> None:
    values: dict[float, list[float]] = {}
    for setting, _, value in points:
        values.setdefault(at[setting], []).append(value)
    for row, of_row in values.items():
        axes.plot(of_row, [row] * len(of_row), "o", color=color, alpha=0.6, markersize=4, label=name)
        axes.vlines(statistics.fmean(of_row), row - 0.14, row + 0.14, color=color, linewidth=2)
        name = "_"  # once in the legend


def _draw_pairs(axes: Axes, verdict: Verdict, at: dict[str, tuple[float, float]]) -> None:
    sides = [{(setting, seed): value for setting, seed, value in side} for side in (verdict.favoured, verdict.other)]
    for setting, seed in sides[0].keys() & sides[1].keys():
        values = [side[setting, seed] for side in sides]
        axes.plot(values, at[setting], color="#808080", linewidth=0.6, alpha=0.7, zorder=1)


def _draw_effect(axes: Axes, verdict: Verdict) -> None:
    axes.axvline(verdict.margin, color="#808080", linewidth=1, linestyle="--")
    if verdict.effect is not None:
        mean, low, high, *_ = verdict.effect
        reach = [[0.0], [0.0]] if math.isnan(low) else [[mean - low], [high - mean]]
        axes.errorbar([mean], [0], xerr=reach, fmt="o", color="#000000", markersize=4, capsize=4)
    axes.set(ylim=(-1, 1), xlabel="better by", title=verdict.verdict)
    axes.set_yticks([])
