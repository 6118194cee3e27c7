"""Unions and gaps of intervals of whole nanoseconds."""

from __future__ import annotations

from typing import Any

import numpy as np


def union(start: Any, end: Any) -> tuple[Any, Any]:
    """The union of intervals as sorted disjoint ones: starts and ends, without empty intervals."""
    real = end > start
    if not real.all():
        start, end = start[real], end[real]
    if not len(start):
        return start, end
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reached = np.maximum.accumulate(end)
    begins = np.concatenate([[True], start[1:] > reached[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    return start[begins], reached[ends]


def length(start: Any, end: Any) -> int:
    """Nanoseconds covered by a union."""
    start, end = union(start, end)
    return int((end - start).sum())


def common(one: tuple[Any, Any], other: tuple[Any, Any]) -> int:
    """Nanoseconds in the intersection of two unions: |A| + |B| - |A or B|."""
    both = np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])
    return length(*one) + length(*other) - length(*both)
