"""Is sigma right? Errors of the decoder's mean against the sigma that it predicts, z being a posterior sample.

Where p(y | z) is right, the standardised residual (y - mean) / sigma has mean square 1, for any law. Coverage is that
of a Gaussian's central intervals: of a law with another shape (Student-t, mixtures, logistics) it differs from the
nominal even where sigma is right, and then measures the shape. Correlations between elements are not looked at.

Shapes: N images, E = event_shape of y, Q bins.
"""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Distribution

from svhn_vae.pictures.sheet import rendered, use_log_scales

COVERAGES = (50, 90, 99)  # percent
NUM_BINS = 15


class Residuals(NamedTuple):
    """Of N images, on the CPU."""

    error: Tensor  # (N, *E): y - mean
    sigma: Tensor  # (N, *E): as predicted

    @property
    def standardised(self) -> Tensor:
        return self.error / self.sigma


class Calibration(NamedTuple):
    residual_variance: float  # mean square of the standardised residuals; below 1, sigma is too large
    coverage: dict[int, float]  # percent -> the fraction inside a Gaussian's central interval
    per_element: Tensor  # (*E): residual_variance of each element of y
    predicted: Tensor  # (Q,): root mean square sigma in bins of equal size, the smallest sigma first
    actual: Tensor  # (Q,): root mean square error there

    @property
    def metrics(self) -> dict[str, float]:
        coverage = {f"calibration/coverage_{percent}": inside for percent, inside in self.coverage.items()}
        return {"calibration/residual_variance": self.residual_variance, **coverage}


def residuals(likelihood: Distribution, y: Tensor) -> Residuals:
    """p(y | z) of images with features y (N, *E)."""
    sigma = likelihood.stddev.clamp(min=torch.finfo(torch.float32).eps)  # 0 where a law on [0, 1) is all at one end
    return Residuals((y - likelihood.mean).cpu(), sigma.cpu())


def calibration(parts: list[Residuals]) -> Calibration:
    whole = Residuals(*(torch.cat(arrays) for arrays in zip(*parts, strict=True)))
    z, order = whole.standardised, whole.sigma.flatten().argsort(stable=True)
    predicted, actual = (
        torch.stack([part.square().mean().sqrt() for part in array.flatten()[order].tensor_split(NUM_BINS)])
        for array in (whole.sigma, whole.error)
    )
    return Calibration(
        residual_variance=z.square().mean(dtype=torch.float64).item(),
        coverage={percent: (z.abs() < half_width(percent)).double().mean().item() for percent in COVERAGES},
        per_element=z.square().mean(0),
        predicted=predicted,
        actual=actual,
    )


def half_width(percent: int) -> float:
    """Of the central interval that holds this percentage of N(0, 1)."""
    return float(norm.ppf(0.5 + percent / 200))


def draw(found: Calibration, caption: str) -> np.ndarray:
    """Reliability, coverage, and the standardised residual variance of each element."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(caption, fontsize="small")
    reliability, coverage, elements = figure.subplots(1, 3)
    draw_reliability(reliability, found)
    draw_coverage(coverage, found)
    draw_elements(elements, found.per_element)
    return rendered(figure)


def draw_reliability(axes: Axes, found: Calibration) -> None:
    ends = torch.cat([found.predicted, found.actual]).aminmax()
    axes.plot(ends, ends, color="0.6", linewidth=1, label="right")
    axes.plot(found.predicted, found.actual, "o-", markersize=4, label="found")
    use_log_scales(axes)
    axes.set(xlabel="predicted sigma", ylabel="root mean square error")
    axes.set_title(f"sigma in {NUM_BINS} bins of equal size: above the line it is too small", fontsize="small")
    axes.legend()


def draw_coverage(axes: Axes, found: Calibration) -> None:
    names = [f"{percent} %" for percent in found.coverage]
    bars = axes.bar(names, [100 * inside for inside in found.coverage.values()], width=0.6, label="found")
    axes.bar_label(bars, fmt="%.1f", label_type="center", color="white")
    for index, percent in enumerate(found.coverage):
        axes.hlines(percent, index - 0.4, index + 0.4, color="black", linewidth=1, label="" if index else "nominal")
    axes.set(xlabel="a Gaussian's central interval", ylabel="y inside, %", ylim=(0, 108))
    axes.set_title("coverage: below the line, sigma is too small or the tails heavy", fontsize="small")
    axes.legend(loc="upper left")


def draw_elements(axes: Axes, per_element: Tensor) -> None:
    """Over the index of a component; of images (C, H, W), a map of the mean over the channels."""
    title = "standardised residual variance: above 1, sigma is too small"
    if per_element.dim() == 1:
        axes.plot(torch.arange(1, len(per_element) + 1), per_element, ".", markersize=3)
        axes.axhline(1, color="0.6", linewidth=1)
        use_log_scales(axes)
        axes.set(xlabel="element of y", ylabel="mean square of (y - mean) / sigma")
        axes.set_ylim(min(0.8 * per_element.min().item(), 0.5), max(1.25 * per_element.max().item(), 2))
    else:
        log_variance = per_element.mean(0).log10().numpy()
        largest = max(abs(log_variance).max(), 0.1)
        shown = axes.imshow(log_variance, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.figure.colorbar(shown, ax=axes, label="log10")
    axes.set_title(title, fontsize="small")
