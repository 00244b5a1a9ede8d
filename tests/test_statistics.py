"""Statistics: scipy's t tests and simulations with a known truth are the oracles."""

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report.statistics import (
    LEVEL,
    against,
    blocks,
    clustered_mean,
    compare_all,
    estimate,
    holm,
    mean_interval,
    paired_by_block,
    paired_by_image,
    paired_by_seed,
    summed,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(3.0, 0.1, 6), RNG.normal(3.1, 0.1, 6)


def by_seed(scores) -> dict[int, float]:
    return dict(enumerate(scores))


# --- one mean -------------------------------------------------------------------------------------------------------


def test_mean_interval_is_that_of_the_t_test():
    due = stats.ttest_1samp(A, 0)
    found = mean_interval(A)
    assert found.mean == pytest.approx(A.mean())
    assert (found.low, found.high) == pytest.approx(tuple(due.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(due.pvalue)
    assert found.num == 6


def test_of_one_seed_there_is_no_interval():
    assert mean_interval([3.0]) is None


def test_scores_without_any_spread():
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0, 3.0, 0.0, 3)
    assert paired_by_seed(by_seed(A), by_seed(A)) == (0.0, 0.0, 0.0, 1.0, 6)


def test_an_estimate_of_what_has_no_interval():
    assert estimate([3.0])[0] == 3.0
    assert np.isnan(estimate([3.0])[1:4]).all()
    assert np.isnan(estimate([3.0, np.nan]).high)
    assert np.isnan(estimate([]).mean)
    assert estimate(A) == mean_interval(A)


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_paired_by_seed_is_the_paired_t_test():
    due = stats.ttest_rel(A, B)
    found = paired_by_seed(by_seed(A), by_seed(B))
    assert found.p_value == pytest.approx(due.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(due.confidence_interval(0.95)))


def test_only_seeds_of_both_are_paired_whatever_their_order():
    a = {3: A[3], 0: A[0], 1: A[1], 7: 99.0}
    b = {1: B[1], 9: -99.0, 0: B[0], 3: B[3]}
    assert paired_by_seed(a, b) == paired_by_seed(*(by_seed(scores[[0, 1, 3]]) for scores in (A, B)))


def test_clusters_of_one_image_are_the_paired_t_test():
    found = paired_by_image(A, B, np.arange(6))
    assert found.p_value == pytest.approx(stats.ttest_rel(A, B).pvalue)


def test_copies_in_a_cluster_say_nothing_new():
    """Of whole clusters of equal sizes, the means are all that counts."""
    found = paired_by_image(A.repeat(5), B.repeat(5), np.arange(6).repeat(5))
    assert found == pytest.approx(paired_by_image(A, B, np.arange(6)))
    assert found.num == 6


def test_clusters_need_not_lie_together_nor_be_numbers():
    order = RNG.permutation(30)
    values, names = RNG.normal(size=30), np.arange(6).repeat(5)
    shuffled = clustered_mean(values[order], np.array(list("abcdef"))[names[order]])
    assert shuffled == pytest.approx(clustered_mean(values, names))


def test_blocks_are_contiguous_and_the_last_may_be_short():
    assert blocks(19).tolist() == [0] * 8 + [1] * 8 + [2] * 3


def test_pairs_of_sums_are_those_of_images():
    rng = np.random.default_rng(5)
    a, b, clusters = rng.normal(2.3, 0.1, 1499), rng.normal(2.4, 0.1, 1499), blocks(1499)
    found = paired_by_block(summed(a, clusters), summed(b, clusters))
    assert found == pytest.approx(paired_by_image(a, b, clusters))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_by_seed({0: 1.0}, {0: 2.0}), "at least 2 seeds or clusters, got 1"),
        (lambda: paired_by_seed({0: 1.0}, {1: 2.0}), "at least 2 seeds or clusters, got 0"),
        (lambda: paired_by_image(A, B, np.zeros(6)), "at least 2 seeds or clusters, got 1"),
        (lambda: paired_by_image(A, B[:1], np.arange(6)), r"the same images, got \(6,\), \(1,\), \(6,\)"),
        (lambda: paired_by_block(summed(A, np.arange(6)), summed(B[:5], np.arange(5))), "the same images, got 6 and 5"),
        (lambda: mean_interval([1.0, np.nan]), "expected finite scores"),
    ],
)
def test_what_cannot_be_compared(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- coverage: 2,000 simulated experiments --------------------------------------------------------------------------


def coverage(values_of, clusters) -> float:
    """The share of simulations of mean 0 whose interval holds it."""
    estimates = [clustered_mean(values_of(), clusters) for _ in range(2000)]
    return np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])


def of_pictures(rng, picture_of_image):
    """Values that a picture's crops share in part, with the heavy tails that per-image bits have."""
    shared = rng.standard_t(5, picture_of_image[-1] + 1)
    return shared[picture_of_image] + rng.standard_t(5, len(picture_of_image))


def test_intervals_cover_where_pictures_are_known():
    rng = np.random.default_rng(1)
    pictures = np.arange(150).repeat(rng.integers(1, 6, 150))
    assert 0.93 < coverage(lambda: of_pictures(rng, pictures), pictures) < 0.97


def test_intervals_cover_by_block_where_they_are_not_and_not_by_image():
    rng = np.random.default_rng(2)
    pictures = np.arange(200).repeat(rng.integers(1, 4, 200))
    assert 0.93 < coverage(lambda: of_pictures(rng, pictures), blocks(len(pictures))) < 0.97
    assert coverage(lambda: of_pictures(rng, pictures), np.arange(len(pictures))) < 0.92


def test_false_differences_among_five_equal_variants_are_rare_after_correction():
    """0.05 at most and three standard errors of 1,000 simulations; without correction about 0.3."""
    rng = np.random.default_rng(3)
    equal = ({str(name): by_seed(rng.normal(size=5)) for name in range(5)} for _ in range(1000))
    found = [compare_all(variants, paired_by_seed) for variants in equal]
    assert np.mean([any(pair.p_value < LEVEL for pair in pairs) for pairs in found]) < 0.071
    assert np.mean([any(pair.difference.p_value < LEVEL for pair in pairs) for pairs in found]) > 0.2


# --- many comparisons -----------------------------------------------------------------------------------------------


def test_holm_on_a_textbook_example():
    """p of 0.01, 0.04, 0.03, 0.005 for four hypotheses: 0.005 and 0.01 are rejected at 5 %, the others are not."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stays_a_probability_and_a_single_test_is_not_corrected():
    assert holm([0.9, 0.8, 0.7]) == [1, 1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.fixture
def comparisons():
    noise = np.random.default_rng(4).normal(size=(3, 6)) * 0.01
    scores = {"good": 2.0 + noise[0], "alike": 2.0 + noise[1], "bad": 3.0 + noise[2]}
    return compare_all({name: by_seed(score) for name, score in scores.items()}, paired_by_seed)


def test_verdicts(comparisons):
    assert {(pair.a, pair.b): pair.verdict for pair in comparisons} == {
        ("good", "alike"): "cannot be told apart",
        ("good", "bad"): "better",
        ("alike", "bad"): "better",
    }
    corrected = holm([pair.difference.p_value for pair in comparisons])
    assert [pair.p_value for pair in comparisons] == corrected


def test_against_the_best(comparisons):
    bad, alike = against("good", comparisons)[::-1]
    assert (bad.a, bad.b, bad.verdict) == ("bad", "good", "worse")
    assert bad.difference.low < 1 < bad.difference.high
    assert (alike.a, alike.b, alike.verdict) == ("alike", "good", "cannot be told apart")
    assert bad.p_value == comparisons[1].p_value
    assert against("bad", comparisons) == comparisons[1:]
