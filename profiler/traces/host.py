"""Traces without a device: host operators as activities, no time of a thread counted twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.nesting import parents, threads
from profiler.traces.tables import Trace, make_table, unified
from profiler.traces.work import operator_rule

OPERATOR, NVTX, HOST = "operator", "nvtx", "host"


def hosted(trace: Trace) -> Trace:
    """A trace without activities of a device gets those of the host.

    The outermost operators with known work count whole; enclosing ones count the time outside their children.
    Where no operators were recorded either, as under Nsight Systems on a CPU, they are the NVTX ranges.
    """
    if trace["activities"].num_rows:
        return trace
    each = (np.flatnonzero(trace.of_kind("ranges", kind)) for kind in (OPERATOR, NVTX))
    rows = next((rows for rows in each if len(rows)), None)
    if rows is None:
        return trace
    place = [trace.column("ranges", key)[rows] for key in ("source", "process", "thread")]
    (thread,) = threads(tuple(place))
    start, end = (trace.column("ranges", key)[rows] for key in ("start_ns", "end_ns"))
    parent = parents(thread, start, end)
    end = _within(end, parent)
    code = trace.column("ranges", "name")[rows]
    known = np.array([operator_rule(word) is not None for word in [*trace.words("ranges", "name"), ""]])[code]
    outermost = ~_inside(known, parent)
    kept = np.flatnonzero(outermost)
    owner, begin, stop = _own_time(kept, parent, start, end)
    order = np.argsort(begin, kind="stable")
    owner, begin, stop = owner[order], begin[order], stop[order]
    names = unified(trace["ranges"]["name"])
    table = make_table(
        "activities",
        {
            **{
                key: column[owner] for key, column in zip(("source", "process", "stream"), place, strict=True)
            },
            "kind": [HOST] * len(owner),
            "name": names.take(rows[owner]),
            "start_ns": begin,
            "end_ns": stop,
            "range": rows[owner].astype(np.int32),
        },
    )
    return trace.with_table("activities", table)


def _inside(which: Any, parent: Any) -> Any:
    """Whether any enclosing range of each is in `which`."""
    found, row = np.zeros(len(parent), bool), parent.copy()
    while (open_ := row >= 0).any():
        found |= open_ & which[np.maximum(row, 0)]
        row = np.where(open_ & ~found, parent[np.maximum(row, 0)], NONE)
    return found


def _within(end: Any, parent: Any) -> Any:
    """Ends clipped to the enclosing range's, as their clock readings are sequential."""
    while True:
        around = np.where(parent >= 0, end[np.maximum(parent, 0)], end)
        if (around >= end).all():
            return end
        end = np.minimum(end, around)


def _own_time(kept: Any, parent: Any, start: Any, end: Any) -> tuple[Any, Any, Any]:
    """Intervals in which each kept range runs and none of the kept ones inside it.

    An interval begins at the start of the range or the end of a direct child, and lasts until the next child
    begins or the range ends.
    """
    place = np.full(len(parent), NONE, np.int64)
    place[kept] = np.arange(len(kept))
    above = parent[kept]  # ranges around a kept range are kept, too
    inner = kept[above >= 0]
    owner = np.concatenate([kept, parent[inner]])
    begin = np.concatenate([start[kept], end[inner]])
    order = np.lexsort((begin, owner))
    owner, begin = owner[order], begin[order]
    children = inner[np.lexsort((start[inner], parent[inner]))]
    last = np.append(owner[1:] != owner[:-1], True) if len(owner) else np.zeros(0, bool)
    stop = end[owner].copy()
    stop[~last] = start[children]  # of each owner one interval fewer than it has children lacks an end
    real = stop > begin
    return owner[real], begin[real], stop[real]
