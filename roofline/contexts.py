"""Sums over all decode steps of a generation, whose numbers grow with the context, in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

LINEAR = 1e-12  # relative deviation from a line that is rounding
SMOOTH = 1e-3  # the same where times are curves with steps: far below the error of a kernel model


def straightness(limits: Any) -> float:
    """The relative deviation from a line up to which values are summed as linear; kernel times are curves."""
    return LINEAR if limits.kernels is None else SMOOTH


def inside(first: Any, middle: Any, last: Any, tolerance: float) -> list[Any]:
    """Where an interval, or each of many, must lie on its line: of times with steps at its quarters, too.

    Two equal steps meet the line in the middle.
    """
    quarters = [(first + middle) // 2, (middle + 1 + last) // 2]
    return [middle, *quarters] if tolerance > LINEAR else [middle]


def sum_over(
    values: Callable[[int], list[float]], first: int, last: int, tolerance: float = LINEAR
) -> list[float]:
    """Sum of values(i) for i = first..last in closed form, for values that are piecewise linear in i.

    Work and limits are linear in the context until a window is full or another limit binds. Where the middle
    and the neighbours of the ends lie on the line between the ends, the sum is an arithmetic series;
    elsewhere the interval is bisected, so that few evaluations suffice for any number of steps.
    """
    at_first, at_last = values(first), values(last)
    if last - first > 1:
        middle = (first + last) // 2

        def on_the_line(i: int) -> bool:
            share = (i - first) / (last - first)
            lines = (a + (b - a) * share for a, b in zip(at_first, at_last, strict=True))
            pairs = zip(values(i), lines, strict=True)
            return all(math.isclose(found, line, rel_tol=tolerance, abs_tol=0.0) for found, line in pairs)

        if not all(on_the_line(i) for i in {first + 1, last - 1, *inside(first, middle, last, tolerance)}):
            halves = (sum_over(values, *ends, tolerance) for ends in ((first, middle), (middle + 1, last)))
            return [a + b for a, b in zip(*halves, strict=True)]
    count = last - first + 1
    return [(a + b) / 2 * count for a, b in zip(at_first, at_last, strict=True)]
