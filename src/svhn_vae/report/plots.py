"""What the page draws from numbers: by matplotlib without pyplot, as SVG files that the page holds as pictures."""

import base64
import contextlib
import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from svhn_vae.errors import counted
from svhn_vae.report.collect import FRECHET, METRIC, Variant
from svhn_vae.report.hypotheses import Verdict
from svhn_vae.report.ranking import Ranking, front
from svhn_vae.runs.files import read_json

# Okabe and Ito's for readers who are colour-blind, dark enough on white; the second six are told apart by their dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5428f", "#8a6d00", "#4a4ac4")
DASHES = ("-", (0, (4, 1.5)))
MAX_SHOWN = len(COLOURS) * len(DASHES)  # variants that a figure can tell apart
NUM_OTHERS = 40  # in grey
GREY = "#808080"
LONG = re.compile(r"\d+\.\d{3,}")  # a number
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "svhn_vae",  # the same figure gives the same file
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
SIZE = (4.7, 3.1)  # inches
MAX_POINTS = 200  # of a curve
AXIS = {"epochs": "epoch", "seconds": "seconds of training"}
METRICS = {
    "val/bits_per_dim": "validation bits/dim",
    "val/negative_elbo": "validation, negative ELBO, nats",  # where no run has the former
    "train/bits_per_dim": "training bits/dim",
    "val/kl": "validation KL, nats",
    "val/active_units": "active units",
}


class Drawing(NamedTuple):
    name: str  # of its file
    caption: str
    alt: str
    svg: str

    @property
    def uri(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


@contextlib.contextmanager
def drawing(
    to: list[Drawing], name: str, caption: str, alt: str = "", size: tuple[float, float] = SIZE
) -> Iterator[Figure]:
    """Adds what is drawn into the figure, its lines to a hundredth of a point: half the size."""
    with matplotlib.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        yield (figure := Figure(figsize=size, layout="constrained"))
        FigureCanvasSVG(figure).print_svg(
            file := io.StringIO(), metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = re.sub(r'(?<= d=")[^"]+', lambda path: LONG.sub(lambda of: f"{float(of[0]):.2f}", path[0]), file.getvalue())
    to.append(Drawing(name, caption, alt or caption, svg))


def line_of(place: int) -> dict:
    """Of the variant at this place of the ranking."""
    if place >= MAX_SHOWN:
        return {"color": GREY, "alpha": 0.6, "zorder": 1}
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS)]}


def dot_of(place: int) -> dict:
    """As line_of, of a single point, which its marker tells apart where a line has dashes."""
    line = line_of(place)
    marker = "osD"[min(place // len(COLOURS), 2)]
    return {"color": line["color"], "alpha": line.get("alpha"), "marker": marker, "linestyle": "none"}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


# --- both sides -----------------------------------------------------------------------------------------------------

BOTH = (
    "Density against pictures, lower is better in both, with 95 % intervals over seeds; the line joins the variants "
    "that no other beats in both. Squares: dashed in the legend; hollow: a seed diverged."
)
RATE = (
    "Rate against distortion: bits/dim of the latents (KL) and of all else, given the latents. On a grey line their "
    "sum, the bits/dim, is the same."
)


def sides(found: Sequence[Variant], rankings: Mapping[str, Ranking], prefix: str) -> list[Drawing]:
    """Bits/dim against Frechet distance, and reconstruction against KL, where two variants have them."""
    shown: list[Drawing] = []
    judged = {at: one for at, one in enumerate(found) if one.scores(METRIC) and one.scores(FRECHET)}
    if len(judged) > 1:
        with drawing(shown, f"{prefix}-both-sides", BOTH) as figure:
            _draw_both(figure, judged, rankings)
    parts = {at: [one.mean(part, "parts") for part in ("kl", "modelled", "residual")] for at, one in enumerate(found)}
    coded = {at: (kl, sum(others)) for at, (kl, *others) in parts.items() if math.isfinite(kl + sum(others))}
    if len(coded) > 1:
        with drawing(shown, f"{prefix}-rate-distortion", RATE) as figure:
            axes = figure.subplots()
            for at, (kl, rest) in coded.items():
                axes.plot(kl, rest, markersize=5, **dot_of(at))
            axes.set(xlabel="rate: KL, bits/dim", ylabel="distortion: all else, bits/dim")
            x = np.array(axes.get_xlim())  # which the lines below would widen
            axes.autoscale(False)
            for total in MaxNLocator(7).tick_values(*np.add(x, axes.get_ylim())):
                axes.plot(x, total - x, color=GREY, linewidth=0.5, alpha=0.5, zorder=0)
    return shown


def _draw_both(figure: Figure, judged: Mapping[int, Variant], rankings: Mapping[str, Ranking]) -> None:
    axes = figure.subplots()
    for at, one in judged.items():
        places = [
            rankings[metric].places.get(one.label) if metric in rankings else None for metric in (METRIC, FRECHET)
        ]
        reach, reach_of_pictures = (_finite(place.reach) if place else 0.0 for place in places)
        style = {"mfc": "none" if one.num_diverged else None, "ms": 5, "capsize": 2, "linewidth": 0.8}
        axes.errorbar(one.mean(), one.mean(FRECHET), reach_of_pictures, reach, **style, **dot_of(at))
    points = sorted((one.mean(), one.mean(FRECHET)) for one in front([*judged.values()]))
    axes.plot(*zip(*points, strict=True) if points else ([], []), color=GREY, linewidth=0.8, zorder=0)
    axes.set(xlabel="test bits/dim", ylabel="Frechet distance of samples")


# --- posterior predictive checks ------------------------------------------------------------------------------------

KINDS = {"samples": "the decoder's mean", "noisy_samples": "with the decoder's noise"}
CHANNELS = ("red", "green", "blue")
MOMENTS = ("mean", "standard deviation", "skewness", "excess kurtosis")


def predictive_checks(found: Sequence[Variant], prefix: str) -> list[Drawing]:
    """What samples have in common with test images, by no judge: of the first run of each variant that has them."""
    read = [one.runs[0].result.get("details") or {} if one.runs else {} for one in found[:MAX_SHOWN]]
    known = {at: of["posterior_predictive"] for at, of in enumerate(read) if of.get("posterior_predictive")}
    shown: list[Drawing] = []
    for name, (draw, what) in CHECKS.items() if known else ():
        with drawing(shown, f"{prefix}-check-{name}", what, f"Samples' {name}: {what}") as figure:
            draw(figure, known, next(iter(known.values()))["test"][name])
    return shown


def _draw_spectra(figure: Figure, known: Mapping[int, Mapping], due: Sequence[float]) -> None:
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        curves = [(of[kind]["spectrum"], {"linewidth": 0.9, **line_of(at)}) for at, of in known.items()]
        for spectrum, style in [*curves, (due, {"color": "#000000", "linewidth": 1.8, "zorder": 0})]:
            axes.plot(np.arange(len(spectrum)) + 1, np.maximum(spectrum, 1e-6), **style)  # of images of one colour, 0
        axes.set(title=title, xlabel="cycles per image", xscale="log", yscale="log")
    figure.axes[0].set_ylabel("power")


def _draw_histograms(figure: Figure, known: Mapping[int, Mapping], due: Sequence[Sequence[float]]) -> None:
    grid = figure.subplots(2, len(due), sharex=True, sharey=True, squeeze=False)
    for row, (kind, title) in zip(grid, KINDS.items(), strict=True):
        for channel, axes in enumerate(row):
            levels = np.linspace(0, 256, len(due[channel]) + 1)
            axes.stairs(due[channel], levels, fill=True, color=GREY, alpha=0.35)
            for at, of in known.items():
                axes.stairs(of[kind]["histograms"][channel], levels, linewidth=0.8, **line_of(at))
            axes.set(xticks=[0, 128, 256], yticks=[], ylim=(0, 2 * np.max(due)))
        row[0].set_ylabel(title)
    for axes, name in zip(grid[0], CHANNELS, strict=False):
        axes.set_title(name if len(due) > 1 else "")


def _draw_moments(figure: Figure, known: Mapping[int, Mapping], due: Sequence[Sequence[float]]) -> None:
    channels = np.arange(len(due[0]))
    for moment, axes in enumerate(figure.subplots(2, 2).flat):
        axes.hlines(due[moment], channels - 0.4, channels + 0.4, color="#000000", linewidth=1.5)
        for place, (at, of) in enumerate(known.items()):
            shift, colour = 0.7 * (place + 0.5) / len(known) - 0.35, line_of(at)["color"]
            for kind, fill in zip(KINDS, (colour, "none"), strict=True):
                axes.plot(channels + shift, of[kind]["moments"][moment], mfc=fill, ms=3, **dot_of(at))
        axes.set(title=MOMENTS[moment], xticks=channels, xticklabels=CHANNELS[: len(channels)])


CHECKS = {
    "spectrum": (_draw_spectra, "Power spectrum of grey values, over the frequency. Black: test images."),
    "histograms": (_draw_histograms, "Shares of pixels by their level, for each channel. Grey: test images."),
    "moments": (_draw_moments, "Moments of pixels, by channel; filled: the decoder's mean, hollow: with its noise. "
                               "Black: test images."),
}  # fmt: skip


# --- learning curves ------------------------------------------------------------------------------------------------


def learning_curves(study: Path, found: Sequence[Variant], prefix: str) -> list[Drawing]:
    """By metric, in epochs, and the first also in seconds; variants in the colour of their place, the best first."""
    runs = [(at, run) for at, one in enumerate(found[: MAX_SHOWN + NUM_OTHERS]) for run in (*one.runs, *one.unfinished)]
    read = [(at, run.status, read_curves(study / run.name / "history.csv")) for at, run in runs]
    having = {metric: [(at, status, curves[metric]) for at, status, curves in read if metric in curves]
              for metric in METRICS}  # fmt: skip
    metrics = [metric for metric in METRICS if having[metric]]
    if "val/bits_per_dim" in metrics:
        metrics = [metric for metric in metrics if metric != "val/negative_elbo"]
    shown: list[Drawing] = []
    for number, metric in enumerate(metrics):
        ends = limits([values for *_, (_, _, values) in having[metric]])
        last = {at: np.median(curve[2, -5:]) for at, status, curve in having[metric] if status != "diverged"}
        beyond = [found[at].label for at, value in last.items() if not ends[0] <= value <= ends[1]]
        caption = METRICS[metric] + (f"; ends beyond the axis: {'; '.join(beyond)}" if beyond else "")
        for row, (along, title) in enumerate(AXIS.items() if number == 0 else [*AXIS.items()][:1]):
            name, alt = f"{prefix}-{metric.replace('/', '_')}-{along}", f"{METRICS[metric]} over {title}"
            with drawing(shown, name, caption, alt) as figure:
                axes = figure.subplots()
                for at, status, curve in having[metric]:
                    axes.plot(curve[row], curve[2], linewidth=0.9, **line_of(at))
                    if status == "diverged":
                        axes.plot(curve[row, -1], min(curve[2, -1], ends[1]), "x", color=line_of(at)["color"])
                axes.set(xlabel=title, ylabel=METRICS[metric], ylim=ends)
                axes.xaxis.set_major_locator(MaxNLocator(7, integer=along == "epochs"))
                axes.ticklabel_format(axis="y", useOffset=False)
    return shown


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """Metric -> epochs, seconds since training began, and values (3, n), at most MAX_POINTS where it was logged; {} if
    there is no such file or a damaged one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {name: [[float(row[key]) for key in ("epoch", "seconds", name)] for row in rows if row.get(name)]
                 for name in METRICS}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    steps = {name: -(-len(points) // MAX_POINTS) for name, points in found.items() if points}
    return {name: np.array(found[name][::-step][::-1]).T for name, step in steps.items()}  # the last one among them


def limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Where an axis should end so that the lower three quarters of the values are seen well: a single image may spike a
    curve, and where a curve begins tells little of where it ends."""
    pooled = np.concatenate(values)
    finite = pooled[np.isfinite(pooled)]
    low, high = np.quantile(finite, [0.02, 0.75]) if len(finite) else (0.0, 1.0)
    reach = max(high - low, 0.03 * abs(high), 1e-9)
    return float(low - 0.1 * reach), float(high + 0.2 * reach)


# --- search and verdicts --------------------------------------------------------------------------------------------

SEARCH = "Trials of the search: val/negative_elbo in nats, over the trials' order and over each searched setting."
VERDICT = "Each dot a run, the bars their means; right: the effect with its 95 % interval, dashed the margin."


def search_drawing(study: Path) -> list[Drawing]:
    """The trials that search.py noted: left the best so far; then a panel for each setting, later trials darker."""
    noted, shown = read_json(study / "search.json").get("trials"), []
    trials = [one for one in noted if one["value"] is not None] if isinstance(noted, list) else []
    if not trials:
        return []
    values, keys = [one["value"] for one in trials], list(trials[0]["params"])
    best = trials[int(np.argmin(values))]["params"]
    alt = f"{counted(len(trials), 'trial')}; the best, {min(values):.1f} nats, has {best}"
    dots: dict[str, Any] = {"c": range(len(values)), "cmap": "Blues", "vmin": -len(values), "s": 9}
    with drawing(shown, "search", SEARCH, alt, (min(2 * (1 + len(keys)), 10), 2.2)) as figure:
        axes = figure.subplots(1, 1 + len(keys), sharey=True, squeeze=False)[0]
        axes[0].step(range(1, len(values) + 1), np.minimum.accumulate(values), where="post", color=COLOURS[1])
        axes[0].scatter(range(1, len(values) + 1), values, **dots)
        axes[0].set(xlabel="trial", ylabel="nats")
        for axis, key in zip(axes[1:], keys, strict=True):
            places = [one["params"][key] for one in trials]
            is_numeric = all(isinstance(place, (int, float)) for place in places)
            if is_numeric and min(places) > 0 and max(places) > 20 * min(places):
                axis.set_xscale("log")
            elif is_numeric:
                axis.locator_params(axis="x", nbins=3)  # room for 0.00075 beside 0.00050
            axis.scatter(places if is_numeric else [str(place) for place in places], values, **dots)
            axis.set_xlabel(key)
    return shown


def verdict_drawing(verdict: Verdict, name: str) -> list[Drawing]:
    """Left: a dot for each run compared, a row and a bar at the mean of each side; right: the effect."""
    shown: list[Drawing] = []
    if verdict.effect is None:
        return shown
    alt = f"the runs that the claim is about, and the effect; {verdict.verdict}: {verdict.asked.claim}"
    with drawing(shown, name, VERDICT, alt, (6.2, 1.6)) as figure:
        runs, effect = figure.subplots(1, 2, width_ratios=[3, 2])
        for row, (side, of) in enumerate(zip(verdict.asked.side_names, verdict.kept, strict=True)):
            values = [one.value for one in of]
            runs.plot(values, [row] * len(values), "o", color=COLOURS[row], alpha=0.6, markersize=4, label=side)
            runs.vlines(np.mean(values), row - 0.3, row + 0.3, color=COLOURS[row], linewidth=2)
        runs.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0)
        runs.set(ylim=(len(verdict.kept) - 0.4, -0.6), xlabel=verdict.asked.quantity, yticks=[])
        mean, low, high, _ = verdict.effect
        reach = [[_finite(mean - low)], [_finite(high - mean)]]
        effect.axvline(verdict.asked.margin, color=GREY, linewidth=1, linestyle="--")
        effect.errorbar([mean], [0], xerr=reach, fmt="o", color="#000000", markersize=4, capsize=4)
        effect.set(ylim=(-1, 1), xlabel="better by", title=verdict.verdict, yticks=[])
        runs.xaxis.set_major_locator(MaxNLocator(5))
        effect.xaxis.set_major_locator(MaxNLocator(3))
    return shown
