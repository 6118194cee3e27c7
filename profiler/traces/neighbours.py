"""Attribute kernels without a range by attributed kernels with the same neighbours.

A decoder runs the same kernels repeatedly. Where some executions were recorded with their operators (an eager
step, a step inside the profiler's window) and others were not (before the window, in a graph), kernels with
the same name, grid and neighbours before and after are the same operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.grouping import numbered

REACH = 2  # kernels on each side


def signatures(name: Any, group: Any, order: Any) -> Any:
    """A number per activity for its name and those of its neighbours in `order`, within its group; equal
    numbers mean equal neighbourhoods. `name` are codes, `order` sorts by group and time."""
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
    """For activities with value -1, the common value of all others with the same signature; else -1."""
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
