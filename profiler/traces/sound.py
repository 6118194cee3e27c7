"""Invalid recorded events, dropped or repaired and counted; and growing columns of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from mmap import mmap
from threading import Lock
from typing import Any

import numpy as np

from profiler.allocator import return_freed_memory
from profiler.traces.columns import BAD
from profiler.traces.tables import Loss

Columns = dict[str, Any]  # NumPy arrays of one length
LONGEST_NS = 3600 * 10**9  # of an activity
FARTHEST_NS = 7 * 86400 * 10**9  # of a recording
BLOCK_ROWS = 1 << 20
IDENTITY = ("start_ns", "end_ns", "process", "device", "stream", "name", "correlation")


class Losses:
    """Counts by sentence, from several threads at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, what: str, count: int, sentence: str) -> None:
        """Count events that were dropped, repaired, unlinked or noted."""
        if count:
            with self._lock:
                self._counts[what, sentence] = self._counts.get((what, sentence), 0) + int(count)

    def found(self) -> tuple[Loss, ...]:
        """All losses so far."""
        return tuple(Loss(what=w, count=n, sentence=s) for (w, s), n in sorted(self._counts.items()))


def sound_times(columns: Columns, losses: Losses, *, ranges: bool = False) -> Columns:
    """Events with valid start, end and length; ranges may be long, and lack an end (BAD)."""
    start, end = columns["start_ns"], columns["end_ns"]
    if not len(start):
        return columns
    length = end - start
    if min(start.min(), end.min()) > BAD and 0 <= length.min() <= length.max() <= LONGEST_NS:
        return columns
    missing, unclosed = (start == BAD) | ((end == BAD) & (not ranges)), end == BAD
    negative = ~missing & ~unclosed & (length < 0)
    absurd = ~missing & ~unclosed & (length > (FARTHEST_NS if ranges else LONGEST_NS))
    losses.note("dropped", missing.sum(), "events without a start or an end")
    losses.note("dropped", negative.sum(), "events of negative duration")
    losses.note("dropped", absurd.sum(), "events longer than an hour")
    return kept(columns, ~(missing | negative | absurd))


def in_order(columns: Columns, losses: Losses, *, distinct: bool = False) -> Columns:
    """Columns in order of start, without events a week from the rest and, if `distinct`, repeats."""
    start = columns["start_ns"]
    if len(start) and int(start.max()) - int(start.min()) > FARTHEST_NS:
        near = np.abs(start - np.median(start)) <= FARTHEST_NS
        losses.note("dropped", (~near).sum(), "events more than a week from the others")
        columns = kept(columns, near)
    start = columns["start_ns"]
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable").astype(np.int32 if len(start) < 2**31 else np.int64)
        for name, values in columns.items():
            columns[name] = values if is_constant(values) else values[order]
    if not distinct:
        return columns
    again = _repeated(columns)
    losses.note("repaired", again.sum(), "activities recorded twice, counted once")
    return kept(columns, ~again)


def _repeated(columns: Mapping[str, Any]) -> Any:
    """A mask of rows equal to an earlier row, as a stream runs nothing twice at the same time."""
    start = columns["start_ns"]
    repeated = np.zeros(len(start), bool)
    first = np.flatnonzero(start[1:] == start[:-1])
    rows = np.union1d(first, first + 1)
    if len(rows):
        keys = [columns[name][rows] for name in IDENTITY if name in columns]
        order = np.lexsort(keys)
        alike = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
        repeated[rows[order[1:][alike]]] = True
    return repeated


def kept(columns: Columns, keep: Any) -> Columns:
    """The rows of a mask."""
    if keep.all():
        return columns
    return {
        name: constant(values[0], int(keep.sum())) if is_constant(values) else values[keep]
        for name, values in columns.items()
    }


def constant(value: Any, rows: int) -> Any:
    """A column of one value, which takes no memory; most traces have one process and one device."""
    return np.broadcast_to(value, rows)


def is_constant(values: Any) -> bool:
    """Whether a column was made by `constant`."""
    return len(values) > 0 and values.strides == (0,)


def joined(parts: Iterable[Columns]) -> Columns:
    """Concatenated columns; parts are emptied as they are copied, to save memory."""
    found: dict[str, Growing] = {}
    for part in parts:
        for name in list(part):
            found.setdefault(name, Growing()).add(part.pop(name))
    return_freed_memory()  # taken by the reader, before the columns are joined
    return {name: column.whole() for name, column in found.items()}


class Growing:
    """A column to which parts are added; constant as long as all parts are the same constant.

    It is in pages of its own, which return to the system with it, unlike memory of the heap.
    """

    def __init__(self) -> None:
        self._blocks: list[Any] = []
        self._filled = 0  # rows of the last block, if that is no constant

    def add(self, part: Any) -> None:
        """Append a part."""
        last = self._blocks[-1] if self._blocks else None
        if is_constant(part) and (last is None or is_constant(last)):
            if last is not None and last[0] == part[0]:
                part = constant(last[0], len(self._blocks.pop()) + len(part))
            self._blocks.append(part)
            return
        if len(part) >= BLOCK_ROWS:  # large enough to keep without a copy
            self._close()
            self._blocks.append(part)
            self._filled = len(part)
            return
        while len(part):
            if last is None or is_constant(last) or self._filled == len(last) or not _fits(part, last):
                self._close()
                last = _in_pages(BLOCK_ROWS, part.dtype)
                self._blocks.append(last)
            some = part[: len(last) - self._filled]
            last[self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            part = part[len(some) :]

    def whole(self) -> Any:
        """All parts as one array; the column is empty afterwards."""
        self._close()
        if len(self._blocks) == 1:
            return self._blocks.pop()
        rows = sum(map(len, self._blocks))
        whole = _in_pages(rows, np.result_type(*self._blocks)) if rows else np.empty(0, np.int64)
        while self._blocks:  # from the last, freeing each after its copy
            block = self._blocks.pop()
            whole[rows - len(block) : rows] = block
            rows -= len(block)
        return whole

    def _close(self) -> None:
        if self._blocks and not is_constant(self._blocks[-1]):
            self._blocks[-1] = self._blocks[-1][: self._filled]
        self._filled = 0


def _fits(part: Any, block: Any) -> bool:
    return bool(np.can_cast(part.dtype, block.dtype))


def _in_pages(rows: int, width: Any) -> Any:
    return np.frombuffer(mmap(-1, rows * width.itemsize), width, rows)
