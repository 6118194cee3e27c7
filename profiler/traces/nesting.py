"""The innermost range of a thread at a time, vectorised over ranges and times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiler.traces.columns import NONE

JITTER_NS = 1000
PIECE = 1 << 18  # times looked up at once, so that temporaries are small against the table


def parents(thread: Any, start: Any, end: Any) -> Any:
    """The row of the range around each range on its thread; -1 where there is none.

    Of all enclosing ranges, the one that began last. Ends that exceed the enclosing range's by less than
    JITTER_NS are taken as equal.
    """
    nested = _nested(thread, start, end)
    return _stacked(thread, start, end) if nested is None else nested


def _nested(thread: Any, start: Any, end: Any) -> Any:
    """The parents where no two ranges of a thread overlap in part or touch; None where any do.

    Each row's first candidate is the previous row. While the candidate ends too early, it is replaced by its
    own candidate, as all rows between ended earlier. Vectorised: each iteration doubles the distance.
    """
    order = np.lexsort((-end, start, thread))
    threads, starts, ends = thread[order], start[order], end[order]
    candidate = np.arange(len(order)) - 1
    candidate[1:][threads[1:] != threads[:-1]] = NONE
    candidate[:1] = NONE
    rows = np.flatnonzero(candidate >= 0)
    while len(rows):
        over = ends[candidate[rows]] < ends[rows]
        rows = rows[over]
        if (ends[candidate[rows]] > starts[rows]).any():
            return None
        candidate[rows] = candidate[candidate[rows]]
        rows = rows[candidate[rows] >= 0]
    found = np.full(len(order), NONE, np.int32)
    found[order] = np.where(candidate >= 0, order[np.maximum(candidate, 0)], NONE)
    return found


def _stacked(thread: Any, start: Any, end: Any) -> Any:
    """The parents of any ranges, one after the other."""
    found = np.full(len(start), NONE, np.int32)
    order = np.lexsort((-end, start, thread)).tolist()
    threads, starts, ends = thread.tolist(), start.tolist(), end.tolist()
    open_rows: list[int] = []  # each encloses the next: their ends fall
    current = None
    for row in order:
        if threads[row] != current:
            open_rows.clear()
            current = threads[row]
        while open_rows and ends[open_rows[-1]] < ends[row]:
            last = ends[open_rows[-1]]
            if last > starts[row] and ends[row] - last <= JITTER_NS:
                ends[row] = last
                break
            open_rows.pop()  # any later range that it encloses, this row encloses too
        if open_rows:
            found[row] = open_rows[-1]
        open_rows.append(row)
    return found


def innermost(thread: Any, start: Any, end: Any, parent: Any, at_thread: Any, at: Any) -> Any:
    """The row of the innermost range open on a thread at each moment; -1 where none is."""
    found = np.full(len(at), NONE, np.int32)
    if not len(start) or not len(at):
        return found
    order = np.lexsort((-end, start, thread))
    keys = thread[order]
    bounds = {each: np.searchsorted(keys, [each, each + 1]) for each in np.unique(keys).tolist()}
    for first in range(0, len(at), PIECE):
        piece = slice(first, first + PIECE)
        for each in np.unique(at_thread[piece]).tolist():
            if each in bounds:
                low, high = bounds[each]
                asked = np.flatnonzero(at_thread[piece] == each) + first
                found[asked] = _open(order[low:high], start, end, parent, at[asked])
    return found


def _open(rows: Any, start: Any, end: Any, parent: Any, at: Any) -> Any:
    """The innermost of one thread's ranges, given by row in order of start, open at each moment."""
    last = np.searchsorted(start[rows], at, "right") - 1
    row = np.where(last >= 0, rows[np.maximum(last, 0)], NONE)
    while True:  # climb out of ended ranges, one level per iteration
        over = (row >= 0) & (end[np.maximum(row, 0)] < at)
        if not over.any():
            return row
        row = np.where(over, parent[np.maximum(row, 0)], row)


def threads(*tables: tuple[Any, ...]) -> list[Any]:
    """One number per distinct (source, process, thread), the same over all the given tables."""
    codes, distinct = [np.zeros(len(columns[0]), np.int32) for columns in tables], 1
    for column in zip(*tables, strict=True):
        found = [np.empty(0, np.int64)]
        for part in column:  # by hashing: there are few threads and many rows
            for first in range(0, len(part), PIECE):
                found.append(pc.unique(pa.array(part[first : first + PIECE])).to_numpy())
        known = np.unique(np.concatenate(found))
        distinct *= max(1, len(known))
        if distinct > np.iinfo(np.int32).max:
            codes = [each.astype(np.int64) for each in codes]
        for each, part in zip(codes, column, strict=True):
            for first in range(0, len(part), PIECE):
                piece = slice(first, first + PIECE)
                each[piece] = each[piece] * len(known) + np.searchsorted(known, part[piece])
    return codes


def latest_before(key: Any, time: Any, asked_key: Any, asked_time: Any) -> Any:
    """Of the rows with the same key, the latest not after each time, else the first; -1 without any."""
    found = np.full(len(asked_key), NONE, np.int64)
    if not len(key) or not len(asked_key):
        return found
    order = np.lexsort((time, key))
    first = np.searchsorted(key[order], asked_key)
    known = first < len(key)
    known &= key[order][np.minimum(first, len(key) - 1)] == asked_key
    found[known] = order[first[known]]
    # Ids are reused: rows and queries are sorted together, and each query takes the last row before it.
    keys, times = np.concatenate([key, asked_key]), np.concatenate([time, asked_time])
    question = np.arange(len(keys)) >= len(key)
    both = np.lexsort((question, times, keys))
    last = np.maximum.accumulate(np.where(question[both], NONE, np.arange(len(both))))
    before = np.where(last >= 0, both[np.maximum(last, 0)], NONE)
    asked = question[both]
    row, at = before[asked], both[asked] - len(key)
    same = (row >= 0) & (key[np.maximum(row, 0)] == asked_key[at])
    found[at[same]] = row[same]
    return found
