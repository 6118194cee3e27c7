"""Kernels that no range explains, by others that have the same neighbours and are explained.

A decoder runs the same kernels over and over. Where some executions were recorded with their operators
(an eager step, a step inside the profiler's window) and others were not (before the window, in a graph), a
kernel with the same name, the same grid and the same kernels before and after is the same operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.grouping import numbered

REACH = 2  # kernels on each side


def signatures(name: Any, group: Any, order: Any) -> Any:
    """A number for each activity's name and those of its neighbours in `order`, within its group; equal
    numbers stand for equal neighbourhoods. `name` are codes, `order` sorts by group and time."""
    code, where = name[order], group[order]
    rows = []
    for shift in range(-REACH, REACH + 1):
        moved = np.full(len(code), -1, np.int64)
        begin, end = max(0, -shift), len(code) - max(0, shift)
        if begin < end:
            there = slice(begin + shift, end + shift)
            same = where[there] == where[begin:end]
            moved[begin:end] = np.where(same, code[there], -1)
        rows.append(moved)
    result = np.empty(len(code), np.int64)
    result[order] = numbered(*rows)
    return result


def known_by_neighbours(signature: Any, value: Any) -> Any:
    """For activities whose value is -1, the value that all others of the same signature share; else -1."""
    found = np.full(len(value), -1, np.int64)
    if not len(value):
        return found
    known = value >= 0
    low = np.full(signature.max() + 1, np.iinfo(np.int64).max)
    high = np.full(signature.max() + 1, -1)
    np.minimum.at(low, signature[known], value[known])
    np.maximum.at(high, signature[known], value[known])
    unique = low == high
    return np.where(~known & unique[signature], high[signature], -1)
