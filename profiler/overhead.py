"""The overhead of ranges: median and interval of the ratio of neighbouring steps with and without."""

from __future__ import annotations

from statistics import median

from profiler.repeats import median_interval
from profiler.steps import Timed
from profiler.subject import Point
from roofline.run_head import Overhead


def overhead(point: Point, timed: Timed) -> Overhead:
    """The overhead of ranges at a point, as a fraction of the step.

    Each step with ranges is compared with its neighbour without, so that drift of the machine affects both;
    CPU time is compared, without waits.
    """
    ratios = [ranged / plain - 1 for ranged, plain in zip(timed.ranged, timed.plain, strict=False)]
    low, high = median_interval(ratios)
    return Overhead(**vars(point), fraction=median(ratios), low=low, high=high, pairs=len(ratios))
