"""Intervals of shares and of their differences: published worked examples and simulations are the oracles."""

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report.proportions import difference, share


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
def test_differences_are_those_of_newcombe_1998(a, b, low, high):
    """Table II, contrasts (a) to (h), method 10."""
    found = difference(share(*a), share(*b))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5.1e-5)
    assert found.mean == pytest.approx(a[0] / a[1] - b[0] / b[1])
    assert found.num == a[1] + b[1]
    turned = difference(share(*b), share(*a))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(("count", "num"), [(0, 3), (1, 3), (81, 263), (15, 148), (29, 29)])
def test_a_share_is_scipys(count, num):
    due = stats.binomtest(count, num).proportion_ci(method="wilson")
    found = share(count, num)
    assert (found.mean, found.num) == (count / num, num)
    assert (found.low, found.high) == pytest.approx((due.low, due.high), abs=1e-12)


def test_differences_are_covered():
    rng = np.random.default_rng(0)
    truth = 0.6 - 0.2
    found = [difference(share(rng.binomial(15, 0.6), 15), share(rng.binomial(12, 0.2), 12)) for _ in range(2000)]
    assert 0.93 < np.mean([estimate.low <= truth <= estimate.high for estimate in found]) < 0.98
