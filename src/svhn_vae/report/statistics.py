"""Which differences between variants the runs can tell, and which not. All intervals and tests are of 95 %.

Two questions. Other seeds: would the variants differ so if they were trained again? One model over all variants and
seeds, whose error is pooled. Other images: would these trained networks differ so on other images? Their errors are
those of the mean over blocks of neighbouring images.

Both are answered by comparisons with the best one observed. Because the best is picked by the scores that it is then
compared by, a variant is worse only if the range of all variants up to it is too large for chance: the studentised
range (Tukey), stepwise from the worst one on (Newman 1939, Keuls 1952), as in a model confidence set (Hansen et al.
2011). The chance to call any variant worse where several are equally the best is 5 % at most. Hsu's intervals (1981)
are shorter, but do not promise this where variants are equal.

Scores are such that lower is better. Shapes: k variants, n seeds.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # Student's t, a hundred times as fast as scipy.stats' for one number
from scipy.stats import bartlett, binomtest, sem, studentized_range

LEVEL = 0.05  # of the intervals and tests
UNSAFE = 0.005  # p of equal variances below which errors are not pooled: it is tested in every study, and must not cost
# Neighbouring crops show one picture, of which SVHN has two on average. The intervals of real differences are 1.6 times
# as wide by blocks of 8 as by image, and no wider by blocks of 64.
IMAGES_PER_BLOCK = 8

Array = np.ndarray
Errors = Callable[[int, int], tuple[float, float]]  # of two variants: standard error of their difference, its df


class Estimate(NamedTuple):
    mean: float
    low: float  # of the 95 % interval
    high: float
    num: int  # of independent values: seeds, or clusters of images


def estimate(scores: Sequence[float]) -> Estimate:
    """Student's t over seeds; the interval of one seed, or of what is not finite, is NaN."""
    mean = float(np.mean(scores)) if len(scores) else math.nan
    return with_error(mean, *error_of_mean(np.asarray(scores)), len(scores))


def with_error(mean: float, error: float, df: float, num: int) -> Estimate:
    """Student's t; NaN where the error is not known."""
    reach = error * _t(df)
    return Estimate(mean, mean - reach, mean + reach, num)


def _t(df: float) -> float:
    return float(stdtrit(df, 1 - LEVEL / 2)) if df else math.nan


# --- the best of many -----------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    """A variant less the best one."""

    mean: float
    reach: float  # half of the interval, which holds for all variants at once; NaN where nothing can be said
    p_value: float  # corrected for all variants; NaN where nothing can be said

    @property
    def is_worse(self) -> bool:
        return self.p_value < LEVEL


NOTHING = Gap(math.nan, math.nan, math.nan)  # can be said


def gaps(means: Sequence[float], errors: Errors) -> list[Gap]:
    """Of every variant to the first, which is taken as the best and whose own is 0."""
    num, p_value = len(means), 0.0
    found = [Gap(0.0, 0.0, 1.0)] * num
    from_best = sorted(range(1, num), key=lambda at: means[at])
    for place, at in reversed([*enumerate(from_best, 2)]):  # the worst first: what is nearer is worse only if that is
        difference, (error, df) = means[at] - means[0], errors(at, 0)
        if df >= 1:
            p_value = max(p_value, _p_of_range(difference, error, place, df))
            found[at] = Gap(difference, error * _critical_range(num, df) / math.sqrt(2), p_value)
        else:
            found[at] = NOTHING._replace(mean=difference)
    return found


def _p_of_range(difference: float, error: float, num: int, df: float) -> float:
    if not error:
        return float(difference <= 0)
    return float(studentized_range.sf(max(difference, 0.0) / error * math.sqrt(2), num, df))


@functools.lru_cache(maxsize=1000)
def _critical_range(num: int, df: float) -> float:
    return float(studentized_range.ppf(1 - LEVEL, num, df))


class SeedErrors(NamedTuple):
    """What is known of the errors of k variants' means over seeds."""

    squares: Array  # (k,): of the means, where means are compared
    dfs: Array  # (k,): of these squares
    reaches: list[float]  # of each variant, half of the interval of its mean; NaN where nothing can be said
    is_pooled: bool
    how: str

    def of(self, weights: Mapping[int, float]) -> tuple[float, float]:
        """The error of a sum of means, variant -> weight, and its df: by Welch where errors are not pooled."""
        at = list(weights)
        parts, dfs = np.square([*weights.values()]) * self.squares[at], self.dfs[at]
        if self.is_pooled or not dfs.all():
            return math.sqrt(parts.sum()), float(dfs.min())
        return math.sqrt(parts.sum()), float(parts.sum() ** 2 / (parts**2 / dfs).sum())

    def of_pair(self, a: int, b: int) -> tuple[float, float]:
        return self.of({a: 1.0, b: -1.0})


def seed_errors(scores: Sequence[Mapping[int, float]]) -> SeedErrors:
    """Of k variants, each seed -> score.

    Where all variants have the same seeds, score = variant + seed + error: what a seed adds to all variants falls out
    of their differences. Else score = variant + error. The error is pooled over variants, unless their variances are
    clearly unequal (Bartlett); then each has its own, and each pair (Welch).
    """
    values = [np.array([given[seed] for seed in sorted(given)]) for given in scores]
    nums = np.array([len(given) for given in values])
    if unequal := _p_of_unequal(values):
        errors = [error_of_mean(given) for given in values]
        reaches = [error * _t(df) for error, df in errors]
        how = f"each variant's own error: the seeds' spread differs between them (p = {unequal:.1g})"
        return SeedErrors(np.square([error for error, _ in errors]), nums - 1, reaches, False, how)
    within, df, how = [given - given.mean() for given in values], int((nums - 1).sum()), "error pooled over variants"
    reaches = [math.sqrt(square) * _t(df) for square in _mean_square(within, df) / nums]
    if len({tuple(sorted(given)) for given in scores}) == 1 and len(values) > 1:
        within, df, how = [*(within - np.mean(within, 0))], df - int(nums[0] - 1), f"{how}, paired by seed"
    how = f"{how}, {df} degrees of freedom" if df else "one seed each: how much chance is in it is not known"
    return SeedErrors(_mean_square(within, df) / nums, np.full(len(nums), df), reaches, True, how)


def contrast(
    weights: Sequence[float], scores: Sequence[Mapping[int, float]], others: Sequence[Mapping[int, float]]
) -> tuple[Estimate, str]:
    """The weighted sum of variants' means, whose weights add up to 0, and how its error is known: pooled with `others`,
    further variants of the study, where their variances are alike."""
    known = seed_errors([*scores, *others])
    known = known if known.is_pooled else seed_errors(scores)
    error, df = known.of(dict(enumerate(weights)))
    mean = sum(weight * float(np.mean([*of.values()])) for weight, of in zip(weights, scores, strict=True))
    return with_error(mean, error, df, len({seed for of in scores for seed in of})), known.how


def _mean_square(residuals: Sequence[Array], df: int) -> float:
    return sum(float(given @ given) for given in residuals) / df if df else math.nan


def _p_of_unequal(values: Sequence[Array]) -> float:
    """The p value of equal variances where it is too small to pool them; else 0."""
    several = [given for given in values if len(given) > 1]
    if len(several) < 2 or any(np.ptp(given) == 0 for given in several):  # of no spread Bartlett's test says nothing
        return 0.0
    p_value = float(bartlett(*several).pvalue)
    return p_value if p_value < UNSAFE else 0.0


# --- images ---------------------------------------------------------------------------------------------------------


def in_blocks(values: Array) -> Array:
    """Means of contiguous blocks of images (N,) in picture order, whose pictures are unknown; a rest is left out."""
    num = len(values) // IMAGES_PER_BLOCK
    return values[: num * IMAGES_PER_BLOCK].reshape(num, IMAGES_PER_BLOCK).mean(1)


def error_of_mean(blocks: Array) -> tuple[float, float]:
    """The standard error of the mean, robust to any dependence within blocks (Liang, Zeger 1986), and its df."""
    num = len(blocks)
    return (float(sem(blocks)), num - 1) if num > 1 else (math.nan, math.nan)


def image_errors(values: Sequence[Array | None]) -> Errors:
    """Of differences of the same images, in blocks; NaN where a variant has not kept them, or has other ones."""

    def of_pair(a: int, b: int) -> tuple[float, float]:
        one, two = values[a], values[b]
        if one is None or two is None or len(one) != len(two):
            return math.nan, math.nan
        return error_of_mean(one - two)

    return of_pair


# --- shares ---------------------------------------------------------------------------------------------------------


def share(count: int, num: int) -> Estimate:
    """count / num with Wilson's interval (1927), which has a width also where all or none are counted."""
    interval = binomtest(count, num).proportion_ci(1 - LEVEL, method="wilson")
    return Estimate(count / num, interval.low, interval.high, num)


def difference_of_shares(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two shares of independent runs, with Newcombe's interval (1998, method 10)."""
    mean = a.mean - b.mean
    down = math.hypot(a.mean - a.low, b.high - b.mean)
    up = math.hypot(a.high - a.mean, b.mean - b.low)
    return Estimate(mean, mean - down, mean + up, a.num + b.num)
