"""How good samples are, by a judge's features of them and of test images. Nothing is downloaded.

Torchmetrics computes the Frechet distance of given features. Its kernel distance is not used: it is a mean over random
subsets, which adds noise of their choice, where the sum over all pairs has none. It has no precision and recall.

All of these depend on how many samples there are: compare figures of equal numbers only, best as many as test images.

Shapes: N, M, S images (N, 3, 32, 32) uint8; F features (N, F); D dimensions of a point.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from svhn_vae.errors import UserError
from svhn_vae.evaluation.judge import NUM_DIGITS, Judge
from svhn_vae.evaluation.reconstruction import sharpness
from svhn_vae.model.covariance import NUM_LEVELS
from svhn_vae.model.vae import VAE
from svhn_vae.seeds import Stream, derive_seed

MAX_PAIRS = 20_000_000  # held at a time: 160 MB
BATCH = 250  # images generated at a time
AGREEMENTS = ("digit_agreement", "colour_distance", "colour_distance_of_others")
NUM_NEIGHBOURS = 3  # k of precision and recall


class Neighbours(NamedTuple):
    """The nearest reference of each of N points."""

    distances: Tensor  # (N,)
    indices: Tensor  # (N,) into the references


class Digits(NamedTuple):
    """Which digits the judge sees."""

    entropy: float  # nats, at most log 10
    frequencies: Tensor  # (10,), sums to 1


class Agreement(NamedTuple):
    """What analogies share with their sources."""

    digit: float  # share of the variants in which the judge sees the source's digit
    colour_distance: float  # mean distance between the mean colours of variant and source, each channel in [0, 1)
    colour_distance_of_others: float  # the same to all other sources: what chance has

    @property
    def metrics(self) -> dict[str, float]:
        return {f"analogies/{name}": value for name, value in zip(AGREEMENTS, self, strict=True)}


class References(NamedTuple):
    """What samples are compared with."""

    images: Tensor  # for testing
    real: Tensor  # a judge's features of them
    known: Tensor  # and of training images


def to_levels(x: Tensor) -> Tensor:
    """Generated x, clipped to [0, 1) -> images uint8, on the same levels as those they are compared with."""
    return (x * NUM_LEVELS).clamp(0, NUM_LEVELS - 1).byte()


@torch.no_grad()
def generated(vae: VAE, num: int, *, noisy: bool) -> Tensor:
    """num samples of the prior as images (num, 3, 32, 32) uint8: the decoder's mean, or with its own noise (of a
    truncated basis, what is cut off stays at its mean). The same latents at every call."""
    latents = vae.prior.sample(num, torch.Generator().manual_seed(derive_seed(Stream.PICTURES, num)), 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(Stream.PICTURES, num, 1))
        parts = []
        for z in latents.split(BATCH):
            likelihood = vae.variance(vae.networks.decode(z)[0])
            parts.append(vae.representation.inverse(likelihood.sample() if noisy else likelihood.mean).cpu())
    return to_levels(torch.cat(parts))


def references(judge: Judge, test_images: Tensor, train_images: Tensor) -> References:
    return References(test_images, judge.opinion(test_images).features, judge.opinion(train_images).features)


def judge_scores(judge: Judge, samples: Tensor, against: References) -> dict[str, float]:
    """All figures of N samples by name; they are worth no more than the judge's accuracy."""
    (generated, digits), (images, real, known) = judge.opinion(samples), against
    return {
        "frechet": frechet_distance(generated, real),
        "kernel": kernel_distance(generated, real),
        "precision": precision(generated, real),
        "recall": recall(generated, real),
        "digit_entropy": digit_entropy(digits).entropy,
        "memorised": memorised(generated, real, known),
        "sharpness": sharpness(samples / NUM_LEVELS, images / NUM_LEVELS),
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the Gaussians with the moments of features a (N, F) and b (M, F); squared, as the FID is.

    Not the FID, which is of Inception's features (Heusel et al. 2017): figures of different judges do not compare.
    """
    features = nn.Identity()
    features.num_features = a.shape[1]  # torchmetrics asks for it
    metric = FrechetInceptionDistance(feature=features)
    metric.update(a.double(), real=False)
    metric.update(b.double(), real=True)
    return metric.compute().item()


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of features a (N, F), b (M, F), kernel (a.b / F + 1)^3.

    Binkowski et al. 2018, there of Inception's features. Unbiased: of equal laws it is often below 0.
    """
    a, b = (features.double() / math.sqrt(a.shape[1]) for features in (a, b))
    within = sum((_kernel_sum(c, c) - _kernel(c.square().sum(1)).sum()) / (len(c) * (len(c) - 1)) for c in (a, b))
    return (within - 2 * _kernel_sum(a, b) / (len(a) * len(b))).item()


def _kernel(products: Tensor) -> Tensor:
    return (products + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> Tensor:
    """Over all pairs of a (N, F) and b (M, F)."""
    return sum(_kernel(rows @ b.T).sum() for rows in _split(a, b))


def _split(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """a in parts that make at most MAX_PAIRS pairs with b."""
    return a.split(max(1, MAX_PAIRS // len(b)))


def precision(generated: Tensor, real: Tensor) -> float:
    """Share of the generated features that lie among real ones (Kynkaanniemi et al. 2019), k = 3."""
    return _share_among(generated, real)


def recall(generated: Tensor, real: Tensor) -> float:
    """Share of the real features that lie among generated ones (Kynkaanniemi et al. 2019), k = 3."""
    return _share_among(real, generated)


def _share_among(points: Tensor, others: Tensor) -> float:
    """Share of the points that are no farther from one of the others than its k-th neighbour among the others is."""
    if len(others) <= NUM_NEIGHBOURS:
        raise UserError(f"precision and recall need more than k = {NUM_NEIGHBOURS} images of a kind, got {len(others)}")
    points, others = points.double(), others.double()
    radii = torch.cat([rows.kthvalue(NUM_NEIGHBOURS + 1).values for rows in _distances(others, others)])  # 1: itself
    return torch.cat([(rows <= radii).any(1) for rows in _distances(points, others)]).double().mean().item()


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of a (N, D) to b (M, D), some rows of N at a time."""
    return (torch.cdist(rows, b) for rows in _split(a, b))


def digit_entropy(digits: Tensor) -> Digits:
    """digits (N,) int64 -> how evenly they are drawn."""
    frequencies = torch.bincount(digits, minlength=NUM_DIGITS).double() / len(digits)
    return Digits(torch.special.entr(frequencies).sum().item(), frequencies)


def nearest_neighbours(points: Tensor, references: Tensor) -> Neighbours:
    """Of points (N, ...) among references (M, ...), features or pixels, by Euclidean distance."""
    points, references = points.flatten(1).float(), references.flatten(1).float()
    indices = torch.cat([rows.argmin(1) for rows in _distances(points, references)])
    return Neighbours((points - references[indices]).norm(dim=1), indices)  # anew: from a matrix product it is inexact


def memorised(generated: Tensor, real: Tensor, known: Tensor) -> float:
    """Share of the pairs of a sample and a test image of which the sample is the nearer to its nearest training image.

    0.5 if samples are as far from training images, `known`, as new images are; 1 for copies (Meehan et al. 2020: the
    Mann-Whitney statistic). Of features, not of pixels: there a blurred image is nearer to all images.
    """
    of_samples, of_test = (nearest_neighbours(points, known).distances.numpy() for points in (generated, real))
    return mannwhitneyu(of_test, of_samples).statistic.item() / (len(of_test) * len(of_samples))


def agreement(judge: Judge, sources: Tensor, variants: Tensor) -> Agreement:
    """Of S sources (S, 3, 32, 32) and V variants of each (S, V, 3, 32, 32), both uint8."""
    digits = judge.opinion(variants.flatten(0, 1)).digits.view(variants.shape[:2])
    colours, due = (images.double().mean((-2, -1)) / NUM_LEVELS for images in (variants, sources))
    distances = torch.cdist(colours.flatten(0, 1), due).view(*digits.shape, len(due))  # (S, V, S)
    is_own = torch.eye(len(due), dtype=torch.bool)[:, None].expand_as(distances)
    return Agreement(
        (digits == judge.opinion(sources).digits[:, None]).double().mean().item(),
        distances[is_own].mean().item(),
        distances[~is_own].mean().item(),
    )
