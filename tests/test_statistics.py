"""Statistics: scipy's tests, least squares, published tables and simulations with a known truth are the oracles."""

import functools

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report import statistics
from svhn_vae.report.statistics import (
    LEVEL,
    UNSAFE,
    difference_of_shares,
    error_of_mean,
    estimate,
    gaps,
    image_errors,
    in_blocks,
    seed_errors,
    share,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(3.0, 0.1, 6), RNG.normal(3.1, 0.1, 6)


def by_seed(scores, first: int = 0) -> dict[int, float]:
    return dict(enumerate(map(float, scores), first))


def compared(scores):
    """Of a list of seed -> score, the best first."""
    return gaps([float(np.mean(list(one.values()))) for one in scores], seed_errors(scores).of_pair)


# --- one mean -------------------------------------------------------------------------------------------------------


def test_an_interval_is_that_of_the_t_test():
    due, found = stats.ttest_1samp(A, 0), estimate(A)
    assert found.mean == pytest.approx(A.mean())
    assert (found.low, found.high) == pytest.approx(tuple(due.confidence_interval(0.95)))
    assert (found.p_value, found.num) == (pytest.approx(due.pvalue), 6)
    assert np.isnan(estimate([3.0])[1:4]).all()  # one seed has none, nor has what is not finite
    assert np.isnan([estimate([3.0, np.nan]).high, estimate([]).mean]).all()
    assert estimate([3.0, 3.0, 3.0]) == (3.0, 3.0, 3.0, 0.0, 3)


# --- the best of many -----------------------------------------------------------------------------------------------


def test_two_variants_of_the_same_seeds_are_the_paired_t_test():
    due = stats.ttest_rel(B, A)
    _, found = compared([by_seed(A), by_seed(B)])
    assert found.p_value == pytest.approx(due.pvalue, rel=1e-5)
    low, high = due.confidence_interval(0.95)
    assert (found.mean, found.reach) == pytest.approx(((B - A).mean(), (high - low) / 2), rel=1e-5)


def test_variants_of_other_seeds_are_tukeys_comparisons():
    """With as many seeds each, and with more of one than of another (Tukey-Kramer)."""
    for sizes in ((4, 4, 4, 4), (3, 5, 2, 4)):
        scores = [RNG.normal(3.0 + 0.1 * at, 0.05, num) for at, num in enumerate(sizes)]
        found = compared([by_seed(one, 10 * at) for at, one in enumerate(scores)])
        due = stats.tukey_hsd(*scores)
        interval = due.confidence_interval(0.95)
        assert found[3].p_value == pytest.approx(
            due.pvalue[3, 0], rel=1e-4
        )  # the worst is compared in all of the range
        for at in (1, 2, 3):
            assert found[at].reach == pytest.approx((interval.high[at, 0] - interval.low[at, 0]) / 2, rel=1e-5)
            assert found[at].p_value <= due.pvalue[at, 0] + 1e-9  # stepwise


def test_the_error_is_that_of_least_squares_over_variants_and_seeds():
    scores = RNG.normal(3.0, 0.1, (5, 3)) + np.array([0.0, 1.0, 2.0])  # what a seed adds to all
    rows = [np.r_[np.eye(5)[k], np.eye(3)[n]] for k in range(5) for n in range(3)]
    X, y = np.array(rows), scores.ravel()
    square = np.sum((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2)
    error, df = seed_errors([by_seed(one) for one in scores]).of_pair(3, 1)
    assert (error, df) == (pytest.approx(np.sqrt(square / 8 * 2 / 3)), 8)


def test_of_one_seed_each_nothing_is_known_but_one_borrows_its_error_from_variants_with_several():
    errors = seed_errors([by_seed([3.0]), by_seed([4.0])])
    assert "one seed each" in errors.how
    assert np.isnan(errors.reaches).all()
    _, found = compared([by_seed([3.0]), by_seed([4.0])])
    assert found.mean == 1.0
    assert np.isnan(found.p_value)
    assert not found.is_worse
    *_, single = compared([by_seed([3.0, 3.01, 2.99]), by_seed([3.1, 3.11, 3.09]), by_seed([3.5])])
    assert single.is_worse


def test_unequal_variances_are_not_pooled_and_said():
    scores = [RNG.normal(3.0, 0.001, 6), RNG.normal(3.05, 0.001, 6), RNG.normal(3.1, 1.0, 6)]
    errors = seed_errors([by_seed(one) for one in scores])
    due = stats.ttest_ind(scores[2], scores[0], equal_var=False)
    error, df = errors.of_pair(2, 0)
    assert "spread differs" in errors.how
    assert (scores[2].mean() - scores[0].mean()) / error == pytest.approx(due.statistic)
    assert df == pytest.approx(due.df)
    assert errors.reaches[2] == pytest.approx(estimate(scores[2]).high - scores[2].mean())
    assert "pooled" in seed_errors([by_seed(one) for one in scores[:2]]).how


def test_scores_without_any_spread():
    """As of counts, or of seeds that change nothing."""
    same, found = compared([by_seed([3.0, 3.0]), by_seed([3.5, 3.5])])
    assert (same.mean, same.p_value) == (0.0, 1.0)
    assert (found.mean, found.reach, found.p_value) == (0.5, 0.0, 0.0)
    assert not compared([by_seed([3.0, 3.0]), by_seed([3.0, 3.0])])[1].is_worse


def test_what_is_nearer_the_best_is_worse_only_if_what_is_farther_is():
    """Pairs' own errors may say otherwise of each by itself."""
    errors = {1: (0.001, 100.0), 2: (10.0, 100.0), 3: (np.nan, np.nan)}
    found = gaps([0.0, 1.0, 2.0, 3.0], lambda a, b: errors[a])
    assert found[1].p_value == found[2].p_value > LEVEL
    assert np.isnan(found[3].p_value)


# --- power and coverage, simulated ----------------------------------------------------------------------------------

SD, NUM_SEEDS = 0.003, 3


@functools.cache
def critical_range(num: int, df: int) -> float:
    return stats.studentized_range.ppf(1 - LEVEL, num, df)


def simulated(means, num: int, seed: int = 0, seed_sd: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Which of k variants are called worse, (num, k), and the best observed one, (num,), as `gaps` has it: whole
    simulations in arrays, because a range's probability takes scipy 10 ms. Some are compared with `gaps` itself."""
    rng, k = np.random.default_rng(seed), len(means)
    x = np.array(means)[:, None] + SD * rng.normal(size=(num, k, NUM_SEEDS))
    x += seed_sd * rng.normal(size=(num, 1, NUM_SEEDS))
    mean, df = x.mean(2), (k - 1) * (NUM_SEEDS - 1)
    residuals = x - mean[..., None] - x.mean(1, keepdims=True) + x.mean((1, 2), keepdims=True)
    error = np.sqrt(np.sum(residuals**2, (1, 2)) / df / NUM_SEEDS)
    order = np.argsort(mean, 1)
    ranges = (np.take_along_axis(mean, order, 1) - mean.min(1, keepdims=True)) / error[:, None]
    critical = [np.inf, *(critical_range(r, df) for r in range(2, k + 1))]
    stepwise = np.logical_and.accumulate((ranges > critical)[:, :0:-1], 1)[:, ::-1]
    worse = np.zeros((num, k), dtype=bool)
    np.put_along_axis(worse, order[:, 1:], stepwise, 1)
    for one, due, best_first in zip(x[:3], worse, order, strict=False):
        if stats.bartlett(*one).pvalue >= UNSAFE:
            found = compared([by_seed(scores) for scores in one[best_first]])
            assert [gap.is_worse for gap in found] == due[best_first].tolist()
    return worse, order[:, 0]


@pytest.mark.parametrize(
    "means",
    [[0.0] * 5, [0.0] * 8 + [0.02] * 8, list(np.arange(16) * 0.002), [0.0, 0.0] + [0.004] * 14],
    ids=["5 equal", "half of them", "stairs", "two best"],
)
def test_no_variant_is_called_worse_than_one_that_is_no_better(means):
    worse, best = simulated(means, 4000, seed=1)
    is_false = worse & (np.array(means) <= np.array(means)[best][:, None])
    assert is_false.any(1).mean() <= 0.06


def test_intervals_hold_for_all_variants_at_once(monkeypatch):
    """Of equal variants, none is farther from the best than its interval reaches."""
    monkeypatch.setattr(statistics, "_p_of_range", lambda *_: 1.0)  # slow
    rng, held = np.random.default_rng(2), []
    for scores in rng.normal(0, 1, (1000, 5, 3)):
        found = compared([by_seed(one) for one in scores[scores.mean(1).argsort()]])
        held.append(all(gap.mean <= gap.reach for gap in found))
    assert 0.93 < np.mean(held) < 0.97


# --- images ---------------------------------------------------------------------------------------------------------


def blocks_of(values, size: int):
    """As in_blocks has it, with blocks of another size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "IMAGES_PER_BLOCK", size)
        return in_blocks(np.asarray(values))


def test_blocks_of_one_image_are_the_paired_t_test_and_copies_say_nothing_new():
    error, df = image_errors([blocks_of(A, 1), blocks_of(B, 1)])(1, 0)
    due = stats.ttest_rel(B, A)
    assert ((B - A).mean() / error, df) == (pytest.approx(due.statistic), 5)
    assert error_of_mean(blocks_of(A.repeat(5), 5)) == pytest.approx(error_of_mean(blocks_of(A, 1)))
    assert in_blocks(np.arange(19.0)).tolist() == [3.5, 11.5]  # contiguous; a rest is left out


def test_what_cannot_be_compared():
    """Images that were not kept, or other ones; and what is of one block."""
    for other in (None, np.ones(5)):
        assert np.isnan(image_errors([blocks_of(A, 1), other])(1, 0)).all()
    assert np.isnan(error_of_mean(np.ones(1))).all()


def of_pictures(rng, picture_of_image):
    """Values that a picture's crops share in part, with the heavy tails that per-image bits have."""
    shared = rng.standard_t(5, picture_of_image[-1] + 1)
    return shared[picture_of_image] + rng.standard_t(5, len(picture_of_image))


@pytest.mark.parametrize(("size", "low", "high"), [(8, 0.93, 0.97), (1, 0.0, 0.92)])
def test_intervals_cover_by_block_and_not_by_image(size, low, high):
    rng, held = np.random.default_rng(2), []
    pictures = np.arange(200).repeat(rng.integers(1, 4, 200))
    for _ in range(2000):
        values = of_pictures(rng, pictures)
        error, df = error_of_mean(blocks_of(values, size))
        held.append(abs(values.mean()) <= error * stats.t.ppf(0.975, df))
    assert low < np.mean(held) < high


# --- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_differences_of_shares_are_those_of_newcombe_1998(a, b, low, high):
    """Table II, contrasts (a) to (h), method 10."""
    found = difference_of_shares(share(*a), share(*b))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5.1e-5)
    assert (found.mean, found.num) == (pytest.approx(a[0] / a[1] - b[0] / b[1]), a[1] + b[1])
    turned = difference_of_shares(share(*b), share(*a))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
