"""What the page draws from numbers, by matplotlib without pyplot: small figures, which a page can set side by side.

Shapes: E components, Q bins, T times, G groups of components.
"""

import math
import re
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from svhn_vae.report.curves import Learning, limits
from svhn_vae.report.svg import MAX_SHOWN, Drawing, colour, dashes, drawn, styled

CURVE_SIZE = (4.7, 3.1)  # inches
SMALL_SIZE = (2.6, 2.2)
NUM_BINS = 60  # of components, in the figure of sigma
NUM_OTHERS = 40  # curves in grey
MOST = 0.75  # of a curve's values
OTHERS = {"color": "#808080", "alpha": 0.4, "zorder": 1}
AXIS = {"epochs": "epoch", "seconds": "seconds of training"}
METRIC_NAMES = {
    "val/bits_per_dim": "validation bits/dim",
    "train/bits_per_dim": "training bits/dim",
    "val/negative_elbo": "validation, negative ELBO, nats",
    "val/kl": "validation KL, nats",
    "val/active_units": "active units",
}


def learning_curves(
    metric: str, along: str, curves: Mapping[str, Learning], places: Mapping[str, int], prefix: str
) -> Drawing:
    """One line per variant, in the colour of its place, `along` epochs or seconds; thin: single seeds; x: diverged."""
    with styled():
        figure = Figure(figsize=CURVE_SIZE, layout="constrained")
        axes = figure.subplots()
        shown = list(curves.items())[: MAX_SHOWN + NUM_OTHERS]
        ends = limits([curve.values for _, one in shown for curve in (one.mean, *one.seeds, *one.ended)], MOST)
        for label, learning in shown:
            _draw_learning(axes, along, learning, places[label], ends)
        axes.set(xlabel=AXIS[along], ylabel=METRIC_NAMES[metric], ylim=ends)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=along == "epochs"))
        axes.ticklabel_format(axis="y", useOffset=False)
        alt = f"{METRIC_NAMES[metric]} over {AXIS[along]}, {len(curves)} variants"
        return drawn(figure, f"{prefix}-{slug(metric)}-{along}", _beyond(metric, curves, ends), alt)


def _draw_learning(axes: Axes, along: str, learning: Learning, place: int, ends: tuple[float, float]) -> None:
    is_told_apart = place < MAX_SHOWN
    line = {"color": colour(place), "linestyle": dashes(place)} if is_told_apart else OTHERS
    for curve in learning.seeds if is_told_apart else ():
        axes.plot(getattr(curve, along), _within(curve.values, ends), linewidth=0.5, alpha=0.5, **line)
    axes.plot(
        getattr(learning.mean, along), _within(learning.mean.values, ends), linewidth=1.5 - (not is_told_apart), **line
    )
    for curve in learning.ended:
        values = _within(curve.values, ends)
        last = np.flatnonzero(~np.isnan(values))[-1:].tolist()
        axes.plot(getattr(curve, along), values, linewidth=0.7, marker="x", markersize=5, markevery=last, **line)


def _within(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """With gaps where they leave the axis: spikes would cross the figure as bars."""
    return np.where((values >= ends[0]) & (values <= ends[1]), values, np.nan)


def _beyond(metric: str, curves: Mapping[str, Learning], ends: tuple[float, float]) -> str:
    """What the axis leaves out."""
    lines = {label: learning.mean.values for label, learning in curves.items() if len(learning.mean.values)}
    outside = [label for label, values in lines.items() if not ends[0] <= np.median(values[-5:]) <= ends[1]]
    return METRIC_NAMES[metric] + (f"; ends beyond the axis: {'; '.join(outside)}" if outside else "")


def sigma_figure(label: str, place: int, found: Mapping[str, np.ndarray], name: str) -> Drawing:
    """eigenvalue, sigma2, error2 (E,): the last two against the first."""
    with styled():
        figure = Figure(figsize=SMALL_SIZE, layout="constrained")
        axes = log_axes(figure)
        eigenvalue, sigma2, error2 = binned(*(found[key].astype(float) for key in ("eigenvalue", "sigma2", "error2")))
        ends = [eigenvalue.min(), eigenvalue.max()]
        axes.plot(ends, ends, color="#808080", linewidth=0.7)
        axes.plot(eigenvalue, error2, "o", markersize=1.8, color="#808080")
        axes.plot(eigenvalue, sigma2, color=colour(place), linestyle=dashes(place), linewidth=1.3)
        use_plain_numbers(axes)
        axes.set(xlabel="variance of the component", ylabel="sigma², squared error")
        alt = f"sigma squared and squared error against the variance of each component: {label}"
        return drawn(figure, name, label, alt)


def binned(eigenvalue: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """(E,) -> means over at most NUM_BINS groups of components of like eigenvalue; only what a logarithm can show."""
    positive = np.all([np.isfinite(array) & (array > 0) for array in (eigenvalue, *others)], axis=0)
    if not positive.any():
        return [np.ones(1) for _ in range(1 + len(others))]
    place = np.log(eigenvalue[positive])
    spread = np.ptp(place)
    group = np.minimum((place - place.min()) / (spread or 1) * NUM_BINS, NUM_BINS - 1).astype(int)
    _, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    return [np.bincount(index, array[positive]) / sizes for array in (eigenvalue, *others)]


def reliability_figure(label: str, place: int, found: Mapping[str, np.ndarray], name: str) -> Drawing:
    """predicted, actual (Q,): above the line, sigma is too small."""
    with styled():
        figure = Figure(figsize=SMALL_SIZE, layout="constrained")
        axes = log_axes(figure)
        predicted, actual = found["predicted"], found["actual"]
        both = np.concatenate([predicted, actual])
        both = both[both > 0]
        ends = [both.min(), both.max()] if len(both) else [1.0, 1.0]
        axes.plot(ends, ends, color="#808080", linewidth=0.7)
        axes.plot(predicted, actual, "o", markersize=2.5, linewidth=1, color=colour(place), linestyle=dashes(place))
        use_plain_numbers(axes)
        axes.set(xlabel="predicted sigma", ylabel="root mean square error")
        return drawn(figure, name, label, f"actual error against predicted sigma: {label}")


def order_figure(label: str, most: float, found: Mapping[str, np.ndarray], name: str) -> Drawing:
    """epochs (T,), explained (T, G): how much of each group of components is reconstructed; the brightest is `most`."""
    with styled():
        figure = Figure(figsize=SMALL_SIZE, layout="constrained")
        axes = log_axes(figure, "linear")
        epochs, explained = found["epochs"].astype(float), np.nan_to_num(found["explained"]).clip(0, most)
        times = [epochs[0] / 2, *epochs]  # a column reaches back to the one before
        groups = np.arange(explained.shape[1] + 1)
        axes.pcolormesh(times, groups, explained.T, cmap="magma", vmin=0, vmax=most, rasterized=True)
        axes.set(xlabel="epoch", ylabel="group of components")
        use_plain_numbers(axes)
        axes.grid(False)
        axes.invert_yaxis()
        return drawn(figure, name, label, f"explained variance of groups of components over epochs: {label}")


def log_axes(figure: Figure, yscale: str = "log") -> Axes:
    """Without the minor ticks, which take most of the time to draw."""
    axes = figure.subplots(subplot_kw={"xscale": "log", "yscale": yscale})
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    return axes


def use_plain_numbers(axes: Axes) -> None:
    """On logarithmic axes, and few of them: the figures are small."""
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            few = math.log10(max(axis.get_view_interval()) / min(axis.get_view_interval())) < 1.5
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=5))
            axis.set_major_formatter("{x:g}")


def slug(text: str) -> str:
    """Of a text what a file's name can hold."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:60]
