"""Which components a network learns first: explained variance over training.

The post's explanation of its results is that a network fits the component of largest variance first and works its way
down. Here that can be seen, or seen to be wrong.

Shapes: B images, E = event_shape of y, T times of measurement, G groups of components.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from svhn_vae.model.coordinates import Features, cosines, to_frequencies
from svhn_vae.model.vae import VAE
from svhn_vae.pictures.sheet import rendered, use_log_scales

MAX_GROUPS = 64
MIN_EXPLAINED = 0.1  # of its variance, for a group to count as learnt


@torch.no_grad()
def explained_variance(vae: VAE, features: Features) -> Tensor:
    """Features of B images -> 1 - mean (y - reconstruction)^2 / var(y), the mean over each group's components (G,).

    1: reconstructed exactly; 0: as well as by the mean; below: worse. Images of pixels are looked at by frequency.
    """
    reconstruction = vae.variance(vae.at_mean(features.y).params).mean
    y, error = features.y, features.y - reconstruction
    if not vae.representation.is_projection:
        y, error = (to_frequencies(pixels, cosines(pixels.shape[-1]).to(pixels)) for pixels in (y, error))
    variance = y.var(0, correction=0).clamp(min=torch.finfo(torch.float32).tiny)
    ratio = (error.square().mean(0) / variance).flatten().cpu()
    groups = component_groups(vae.representation.event_shape)
    size = torch.bincount(groups)
    return 1 - torch.zeros(len(size)).index_add_(0, groups, ratio) / size


def rank_correlation(epochs: Tensor, explained: Tensor) -> float | None:
    """Epochs (T,), explained variance (T, G) -> Spearman's correlation of a group's place and the epoch at which half
    of what is ever explained of it was: 1 if the largest variances come first. None of fewer than three groups learnt.
    """
    best = explained.max(0).values
    learnt = (best > MIN_EXPLAINED).nonzero()[:, 0]
    half = epochs[(explained[:, learnt] >= best[learnt] / 2).int().argmax(0)]
    if len(learnt) < 3 or (half == half[0]).all():
        return None
    return float(spearmanr(learnt.numpy(), half.numpy()).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def component_groups(event_shape: torch.Size) -> Tensor:
    """The group of each element of y, flat: equal steps of the logarithm of a component's index, or of images of
    frequencies (C, H, W) the rings of equal distance from the constant."""
    if len(event_shape) == 3:
        _, height, width = event_shape
        down, across = torch.arange(float(height))[:, None], torch.arange(float(width))
        return torch.hypot(down, across).round().long().expand(event_shape).flatten()
    position = torch.arange(1, event_shape.numel() + 1).log()
    group = (position / position[-1].clamp(min=1e-6) * (MAX_GROUPS - 1)).floor()
    return group.unique(return_inverse=True)[1]  # without the empty ones between the first components


def draw(epochs: list[int], explained: Tensor, event_shape: torch.Size, caption: str) -> np.ndarray:
    """Epochs counted from 1, explained variance (T, G) -> a map of it, epochs across, components down."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    name, edges = component_edges(event_shape)
    times = [epochs[0] / 2, *epochs]  # a column reaches back to the one before
    shown = axes.pcolormesh(times, edges, explained.T.clamp(0, 1).numpy(), cmap="magma", vmin=0, vmax=1)
    figure.colorbar(shown, label="explained variance of validation images (0 or less: black)")
    use_log_scales(axes)
    axes.set(xlabel="epoch", ylabel=name)
    axes.invert_yaxis()
    axes.set_title(f"order of learning, {caption}", fontsize="small")
    return rendered(figure)


def component_edges(event_shape: torch.Size) -> tuple[str, list[float]]:
    """What the groups are, and where each begins, counted from 1; and the end."""
    groups = component_groups(event_shape)
    num_groups = int(groups.max()) + 1
    if len(event_shape) == 3:
        return "distance from the constant frequency, + 1", [float(group) + 1 for group in range(num_groups + 1)]
    first = [int((groups == group).nonzero()[0, 0]) + 1 for group in range(num_groups)]
    return "component", [float(edge) for edge in (*first, len(groups) + 1)]
