"""Shares of runs, such as of those that diverged, and their 95 % intervals from Wilson scores.

The usual interval, of the normal distribution, has no width where all runs or none diverged, which is the usual case.
"""

import math
from statistics import NormalDist

from svhn_vae.report.statistics import LEVEL, Estimate

Z = NormalDist().inv_cdf(1 - LEVEL / 2)


def share(count: int, num: int) -> Estimate:
    """count / num with Wilson's interval (1927). No p value: a share is tested by its interval."""
    middle = (count + Z**2 / 2) / (num + Z**2)
    reach = Z / (num + Z**2) * math.sqrt(count * (num - count) / num + Z**2 / 4)
    return Estimate(count / num, max(middle - reach, 0.0), min(middle + reach, 1.0), math.nan, num)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two shares of independent runs, with Newcombe's interval (1998, method 10)."""
    mean = a.mean - b.mean
    down = math.hypot(a.mean - a.low, b.high - b.mean)
    up = math.hypot(a.high - a.mean, b.mean - b.low)
    return Estimate(mean, mean - down, mean + up, math.nan, a.num + b.num)
