"""Link ranges, launches and activities to their enclosing ranges, for all formats."""

from __future__ import annotations

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.nesting import PIECE, innermost, parents, threads
from profiler.traces.tables import Trace


def link_ranges(trace: Trace) -> Trace:
    """Fill `parent` of ranges, `range` of launches, and `range` of activities by their launches.

    A range owns the calls made inside it on its own thread, and so the activities that they launch.
    """
    return link_activities(link_launches(trace))


def link_launches(trace: Trace) -> Trace:
    """Fill `parent` of ranges and `range` of launches."""
    place = ("source", "process", "thread")
    of_range, of_launch = threads(
        *(tuple(trace.column(table, name) for name in place) for table in ("ranges", "launches"))
    )
    start, end = trace.column("ranges", "start_ns"), trace.column("ranges", "end_ns")
    parent = parents(of_range, start, end)
    around = innermost(of_range, start, end, parent, of_launch, trace.column("launches", "start_ns"))
    return trace.with_column("ranges", "parent", parent).with_column("launches", "range", around)


def link_activities(trace: Trace) -> Trace:
    """Fill `range` of activities with that of their launches, where these are in one."""
    launch, around = trace.column("activities", "launch"), trace.column("launches", "range")
    found = np.require(trace.column("activities", "range"), requirements="W")  # a copy only of what is a view
    for first in range(0, len(found) if len(around) else 0, PIECE):
        piece = slice(first, first + PIECE)
        through = np.where(launch[piece] >= 0, around[np.maximum(launch[piece], 0)], NONE)
        found[piece] = np.where(through >= 0, through, found[piece])
    return trace.with_column("activities", "range", found)
