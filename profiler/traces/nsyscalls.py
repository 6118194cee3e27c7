"""The launching call of a report's activities, by correlation id and process."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.sound import BLOCK_ROWS, is_constant

MOST_ID = np.int64((1 << 32) - 1)  # mask of a correlation id
SPARSEST = 4  # maximum table entries per id


class Calls:
    """Rows of the launches by process and correlation id.

    Ids of a report are usually dense: a direct table takes less memory and look-up time than sorted ids,
    which are used for sparse ones.
    """

    def __init__(self, process: Any, correlation: Any) -> None:
        rows = np.flatnonzero(correlation > 0).astype(np.int32)  # others launched nothing
        ids = correlation[rows] & MOST_ID
        self._processes = np.unique(process[:1] if is_constant(process) else process)
        self._least = int(ids.min()) if len(ids) else 0
        self._width = int(ids.max()) - self._least + 1 if len(ids) else 1
        keys = self._keys(process[rows], ids)
        self._ordered: Any = None
        if self._width * len(self._processes) <= SPARSEST * len(rows):
            self._rows = np.full(self._width * len(self._processes), np.int32(NONE))
            self._rows[keys[::-1]] = rows[::-1]  # launches stand in order of time: the first stays
            self.twice = len(rows) - int((self._rows >= 0).sum())
            return
        order = np.argsort(keys, kind="stable")
        self._ordered, self._rows = keys[order], rows[order]
        self.twice = int((self._ordered[1:] == self._ordered[:-1]).sum())

    def rows(self, process: Any, correlation: Any) -> Any:
        """The row of each activity's call, -1 where there is none."""
        if not len(self._rows):
            return np.full(len(process), np.int32(NONE))
        place = np.minimum(np.searchsorted(self._processes, process), len(self._processes) - 1)
        ids = (correlation & MOST_ID) - self._least
        known = (self._processes[place] == process) & (correlation > 0) & (ids >= 0) & (ids < self._width)
        keys = np.where(known, place * self._width + ids, 0)
        if self._ordered is None:
            return np.where(known, self._rows[keys], np.int32(NONE))
        at = np.minimum(np.searchsorted(self._ordered, keys), len(self._ordered) - 1)
        return np.where(known & (self._ordered[at] == keys), self._rows[at], np.int32(NONE))

    def _keys(self, process: Any, ids: Any) -> Any:
        """One number for process and id."""
        keys = np.empty(len(ids), np.int64)
        for at in range(0, len(ids), BLOCK_ROWS):
            piece = slice(at, at + BLOCK_ROWS)
            place = np.searchsorted(self._processes, process[piece])
            keys[piece] = place * self._width + (ids[piece] - self._least)
        return keys
