"""Median and interval of what was measured, without assuming how it is distributed."""

from collections.abc import Sequence
from itertools import accumulate
from math import comb
from statistics import median
from typing import NamedTuple


class Estimate(NamedTuple):
    """A median and the ends of the interval that holds it."""

    median: float
    low: float
    high: float


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """
    The median of *values* with its interval from order statistics.

    How many of n values lie below the true median is binomial(n, 1/2), whatever the distribution. Fewer than
    six values can't give 95 %; the interval is then their whole range. Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values to estimate from")
    ordered, count = sorted(values), len(values)
    tails = accumulate(comb(count, k) / 2**count for k in range(count // 2))
    cut = max(0, sum(2 * tail <= 1 - confidence for tail in tails) - 1)
    return Estimate(median(ordered), ordered[cut], ordered[-1 - cut])
