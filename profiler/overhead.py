"""What ranges cost a step: the ratio of neighbouring steps with and without, its median and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median

from profiler.steps import Timed
from profiler.subject import Point
from roofline.run import Overhead

CONFIDENCE = 0.95


def overhead(point: Point, timed: Timed) -> Overhead:
    """The cost of ranges in a point, as a fraction of the step.

    Each step with ranges is compared with the one beside it without, so that a drift of the machine touches
    both; work is compared, not waits.
    """
    ratios = [ranged / plain - 1 for ranged, plain in zip(timed.ranged, timed.plain, strict=False)]
    low, high = median_interval(ratios)
    return Overhead(**vars(point), fraction=median(ratios), low=low, high=high, pairs=len(ratios))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which of the values the median of their distribution lies, at 95 % confidence or more.

    Of order statistics, whatever the distribution: the number of values below its median is binomial. Fewer
    than six values reach that confidence at no width: then it is the smallest and the largest.
    """
    ranked, n = sorted(values), len(values)
    outside, cut = 1 / 2**n, 0
    while cut + 1 < n / 2 and 2 * (outside + comb(n, cut + 1) / 2**n) <= 1 - CONFIDENCE:
        cut += 1
        outside += comb(n, cut) / 2**n
    return ranked[cut], ranked[n - 1 - cut]
