"""Which differences between variants the runs can tell, and which not. Student's t throughout, intervals of 95 %.

Two questions, two tests. By seed: is one method better than another, on these test images? By image: is one trained
network better than another, on images of this kind?

Scores are such that lower is better, as of bits per dimension; negate the others.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t, a hundred times as fast as scipy.stats' for one number

from svhn_vae.errors import UserError

LEVEL = 0.05  # of the intervals and tests
# Neighbouring crops show one picture, of which SVHN has two on average. The intervals of real differences are 1.6 times
# as wide by blocks of 8 as by image, and no wider by blocks of 64.
IMAGES_PER_BLOCK = 8

Array = np.ndarray
Variant = TypeVar("Variant")


class Estimate(NamedTuple):
    """A mean and what is known of it."""

    mean: float
    low: float  # of the 95 % interval
    high: float
    p_value: float  # of the mean being 0
    num: int  # of independent values: seeds, or clusters of images


class Comparison(NamedTuple):
    """Variant `a` against variant `b`."""

    a: str
    b: str
    difference: Estimate  # of a minus b; its interval and p value are this pair's alone
    p_value: float  # corrected for the number of pairs
    verdict: str  # of a: 'better', 'worse' or 'cannot be told apart'


def mean_interval(scores: Sequence[float]) -> Estimate | None:
    """Of the scores of several seeds; None if there is one only."""
    return clustered_mean(np.asarray(scores), np.arange(len(scores))) if len(scores) > 1 else None


def estimate(scores: Sequence[float]) -> Estimate:
    """Of one seed or several; the interval of one, or of what is not finite, is NaN."""
    if len(scores) > 1 and all(map(math.isfinite, scores)):
        return clustered_mean(np.asarray(scores), np.arange(len(scores)))
    return Estimate(float(np.mean(scores)) if len(scores) else math.nan, math.nan, math.nan, math.nan, len(scores))


def paired_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """a - b over the seeds that both have, from seed -> score: what a seed shares with itself falls out."""
    seeds = sorted(a.keys() & b.keys())
    differences = np.array([a[seed] - b[seed] for seed in seeds])
    return clustered_mean(differences, np.arange(len(seeds)))


def paired_by_image(a: Array, b: Array, clusters: Array) -> Estimate:
    """a - b over the same images (N,) in the same order; clusters (N,) names the picture or block of each."""
    if not a.shape == b.shape == clusters.shape:
        raise UserError(f"expected values and clusters of the same images, got {a.shape}, {b.shape}, {clusters.shape}")
    return clustered_mean(a - b, clusters)


def blocks(num_images: int) -> Array:
    """Clusters (N,) of images in picture order whose pictures are unknown: contiguous blocks."""
    return np.arange(num_images) // IMAGES_PER_BLOCK


def clustered_mean(values: Array, clusters: Array) -> Estimate:
    """The mean of values (N,), its standard error robust to any dependence within clusters (N,) (Liang, Zeger 1986).

    With a value to each cluster it is that of the t test.
    """
    if not np.isfinite(values).all():
        raise UserError("expected finite scores: leave out the variants that have none")
    return mean_of(summed(values, clusters))


class Summed(NamedTuple):
    """What an interval needs of values: of each cluster their sum (C,) and their number (C,)."""

    sums: Array
    sizes: Array


def summed(values: Array, clusters: Array) -> Summed:
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return Summed(np.bincount(index, values, minlength=len(sizes)), sizes)


def mean_of(values: Summed) -> Estimate:
    """The same of values that are kept as sums."""
    num, num_values = len(values.sizes), int(values.sizes.sum())
    if num < 2:
        raise UserError(f"expected at least 2 seeds or clusters, got {num}: of one nothing is known of the spread")
    mean = float(values.sums.sum()) / num_values
    residuals = values.sums - mean * values.sizes
    error = math.sqrt(num / (num - 1) * float(residuals @ residuals)) / num_values
    reach = error * float(stdtrit(num - 1, 1 - LEVEL / 2))
    p_value = 2 * float(stdtr(num - 1, -abs(mean) / error)) if error else float(mean == 0)
    return Estimate(mean, mean - reach, mean + reach, p_value, num)


def paired_by_block(a: Summed, b: Summed) -> Estimate:
    """a - b of the same images in the same clusters."""
    if not np.array_equal(a.sizes, b.sizes):
        raise UserError(f"expected values of the same images, got {a.sizes.sum()} and {b.sizes.sum()}")
    return mean_of(Summed(a.sums - b.sums, a.sizes))


def compare_all(variants: Mapping[str, Variant], paired: Callable[[Variant, Variant], Estimate]) -> list[Comparison]:
    """Every pair of variants by name, told apart by `paired`, corrected for the number of pairs."""
    pairs = list(itertools.combinations(variants, 2))
    differences = [paired(variants[a], variants[b]) for a, b in pairs]
    corrected = holm([difference.p_value for difference in differences])
    return [
        Comparison(a, b, difference, p_value, verdict(difference.mean, p_value))
        for (a, b), difference, p_value in zip(pairs, differences, corrected, strict=True)
    ]


def against(best: str, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those of every other variant with the best, as `a - best`.

    They stay corrected for all pairs: the best was chosen by the scores that it is now compared by.
    """
    turned = [swapped(comparison) if comparison.a == best else comparison for comparison in comparisons]
    return [comparison for comparison in turned if comparison.b == best]


def swapped(comparison: Comparison) -> Comparison:
    a, b, (mean, low, high, *rest), p_value, _ = comparison
    return Comparison(b, a, Estimate(-mean, -high, -low, *rest), p_value, verdict(-mean, p_value))


def verdict(difference: float, p_value: float) -> str:
    if p_value >= LEVEL:
        return "cannot be told apart"
    return "better" if difference < 0 else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number, in their order: the chance of any false difference stays below LEVEL (Holm 1979)."""
    order = np.argsort(p_values)
    scaled = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()
