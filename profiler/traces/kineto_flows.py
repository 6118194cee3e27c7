"""Links by arrows: flow events from calls to activities, where activities name no call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from profiler.traces.nesting import NONE, innermost, latest_before, parents, threads

Columns = Mapping[str, Any]


def by_arrows(activities: Columns, flows: Columns, table: Columns) -> Any:
    """The row of the call or range at the start of the arrow to each activity; -1 without one.

    An arrow ends at an activity's start, on its process and thread (`place_process`, `place_thread`), and
    starts inside a call or range: the innermost of its thread at that time.
    """
    found = np.full(len(activities["start_ns"]), NONE, np.int64)
    begins = np.flatnonzero(flows["begins"])
    ends = np.flatnonzero(~flows["begins"])
    if not len(begins) or not len(ends):
        return found
    of_end, of_activity = threads(
        (flows["process"][ends], flows["thread"][ends]),
        (activities["place_process"], activities["place_thread"]),
    )
    end = latest_before(of_end, flows["start_ns"][ends], of_activity, activities["start_ns"])
    meets = (end >= 0) & (flows["start_ns"][ends][np.maximum(end, 0)] == activities["start_ns"])
    end = ends[end[meets]]
    begin = latest_before(
        flows["arrow"][begins], flows["start_ns"][begins], flows["arrow"][end], flows["start_ns"][end]
    )
    known = begin >= 0
    begin = begins[begin[known]]
    of_row, of_begin = threads(
        (table["process"], table["thread"]), (flows["process"][begin], flows["thread"][begin])
    )
    start, stop = table["start_ns"], table["end_ns"]
    row = innermost(of_row, start, stop, parents(of_row, start, stop), of_begin, flows["start_ns"][begin])
    found[np.flatnonzero(meets)[known]] = row
    return found
