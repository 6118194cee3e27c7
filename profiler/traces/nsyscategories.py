"""Categories of NVTX ranges: `roofline profile --nsys` puts an operator's sizes there, as JSON.

A category is a number of its process and domain; an event of its own names it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiler.traces.columns import NONE
from profiler.traces.nsyscolumns import ID_BITS, LOW_BITS
from profiler.traces.nsysnames import Strings, decoded

MADE = 33  # the type of the event that names a category
MOST = 100_000  # names kept: with more, they are not operators


class Categories:
    """The names of categories, collected from a file's events."""

    def __init__(self) -> None:
        self.named: dict[tuple[int, int, int], str] = {}

    def add(self, batch: pa.RecordBatch, strings: Strings) -> None:
        """Keep the names that a batch of NVTX events gives to categories."""
        if not {"type", "category", "domain", "thread"} <= set(batch.schema.names):
            return
        batch = batch.filter(pc.equal(batch["type"], MADE)).slice(0, MOST - len(self.named))
        texts = strings.texts(batch).to_pylist()
        columns = (batch[name].to_pylist() for name in ("thread", "domain", "category"))
        for thread, domain, category, text in zip(*columns, texts, strict=True):
            if None not in (thread, domain, category) and (name := decoded(text)).startswith("{"):
                self.named[thread >> ID_BITS & LOW_BITS, domain, category] = name

    def sizes(self, columns: dict[str, Any]) -> tuple[Any, list[str]]:
        """The code of each range's sizes, -1 for none, and the dictionary of codes."""
        rows, known = len(columns["start_ns"]), sorted(set(self.named.values()))
        if not known:
            return np.full(rows, NONE, np.int32), []
        numbers = {name: code for code, name in enumerate(known)}
        asked = np.stack([np.asarray(columns[name], np.int64) for name in ("process", "domain", "category")])
        distinct, index = np.unique(asked, axis=1, return_inverse=True)
        codes = [numbers.get(self.named.get((p, d, c), ""), NONE) for p, d, c in distinct.T.tolist()]
        return np.array(codes, np.int32)[index.ravel()], known
