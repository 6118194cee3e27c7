"""Ranges around ranges, launches and activities: what every format needs once its rows are there."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.nesting import NONE, innermost, parents, threads
from profiler.traces.tables import Trace


def link_ranges(trace: Trace) -> Trace:
    """Fill `parent` of ranges, `range` of launches, and `range` of activities where it is still -1.

    A range owns the calls made inside it on its own thread, and so the activities that they launch.
    """
    place = ("source", "process", "thread")
    of_range, of_launch = threads(
        *(tuple(trace.column(table, name) for name in place) for table in ("ranges", "launches"))
    )
    start, end = trace.column("ranges", "start_ns"), trace.column("ranges", "end_ns")
    parent = parents(of_range, start, end)
    around = innermost(of_range, start, end, parent, of_launch, trace.column("launches", "start_ns"))
    launch = trace.column("activities", "launch")
    known: Any = trace.column("activities", "range")
    through = np.where(launch >= 0, around[np.maximum(launch, 0)], NONE) if len(around) else known
    return (
        trace.with_column("ranges", "parent", parent)
        .with_column("launches", "range", around)
        .with_column("activities", "range", np.where(through >= 0, through, known))
    )
