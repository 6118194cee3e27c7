"""Traces without any device: the host's own operators as what ran, no moment of a thread counted twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.nesting import NONE, parents, threads
from profiler.traces.tables import Trace, make_table, unified
from profiler.traces.work import operator_rule

OPERATOR, HOST = "operator", "host"


def hosted(trace: Trace) -> Trace:
    """A trace without activities of a device gets those of the host.

    The outermost operators whose work can be known are whole; of what lies around them counts the time
    in which nothing inside it ran.
    """
    kinds = trace.words("ranges", "kind")
    if trace["activities"].num_rows or OPERATOR not in kinds:
        return trace
    rows = np.flatnonzero(trace.column("ranges", "kind") == kinds.index(OPERATOR))
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
    """Whether any range around each one is among `which`."""
    found, row = np.zeros(len(parent), bool), parent.copy()
    while (open_ := row >= 0).any():
        found |= open_ & which[np.maximum(row, 0)]
        row = np.where(open_ & ~found, parent[np.maximum(row, 0)], NONE)
    return found


def _within(end: Any, parent: Any) -> Any:
    """Ends not after that of the range around: clocks are read one after the other."""
    while True:
        around = np.where(parent >= 0, end[np.maximum(parent, 0)], end)
        if (around >= end).all():
            return end
        end = np.minimum(end, around)


def _own_time(kept: Any, parent: Any, start: Any, end: Any) -> tuple[Any, Any, Any]:
    """Intervals in which each of the kept ranges runs and none of the kept ones inside it.

    An interval of a range begins where it begins or where one directly inside it ends, and lasts until the
    next one inside it begins or until its own end.
    """
    place = np.full(len(parent), NONE, np.int64)
    place[kept] = np.arange(len(kept))
    above = parent[kept]  # what stands around a kept range is kept, too
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
