"""Batches of a report's integers as compact columns, and columns as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.columns import BAD, NONE
from profiler.traces.grouping import same
from profiler.traces.sound import Columns, constant, is_constant, joined
from profiler.traces.tables import SCHEMAS

TIMES = ("start_ns", "end_ns")
# Columns with negative numbers: a clock may begin before its zero, and what has a name has a number below 0.
BELOW = (*TIMES, "name", "process", "thread", "place_process", "place_thread")
ID_BITS = 24  # a global id holds the machine, the process and the thread, from high bits to low
LOW_BITS = (1 << ID_BITS) - 1


def integers(batch: pa.RecordBatch) -> Columns:
    """Columns as int64 of their own, -1 for NULL (BAD in times); an ArrowTypeError for anything else."""
    columns = {}
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_integer(values.type):
            raise pa.ArrowTypeError(f"column {name} holds values of type {values.type}, expected integers")
        absent = BAD if name in TIMES else NONE
        numbers = (values.fill_null(absent) if values.null_count else values).to_numpy()
        if name in ("process", "thread"):
            columns["process"] = numbers >> ID_BITS & LOW_BITS
        if name != "process":
            columns[name] = numbers & LOW_BITS if name == "thread" else numbers
    return columns


def compact(table: str, columns: Columns) -> Columns:
    """Columns in the narrowest type, constant ones as a single value, without references to the batch.

    Numbers outside their table's type are clipped.
    """
    schema = SCHEMAS[table]
    for name, values in columns.items():
        kind = schema.field(name).type if name in schema.names else pa.int64()
        most = np.iinfo(np.int32 if pa.types.is_int32(kind) else np.int64)
        least = most.min if name in BELOW else NONE
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        if low < least or high > most.max:
            values = values.clip(least, most.max)  # noqa: PLW2901
            low, high = max(low, least), min(high, most.max)
        width = np.int64 if name in TIMES else _width(low, high)
        columns[name] = (
            constant(width(low), len(values)) if low == high and len(values) else values.astype(width)
        )
    return columns


def _width(low: int, high: int) -> type[np.signedinteger[Any]]:
    """The narrowest integers that hold these."""
    fitting = (w for w in (np.int8, np.int16, np.int32) if np.iinfo(w).min <= low and high <= np.iinfo(w).max)
    return next(fitting, np.int64)


def whole(parts: Iterable[Columns]) -> Columns:
    """Batches of one table, one under the other; no rows where there are none."""
    return joined(parts) or {name: np.empty(0, np.int64) for name in TIMES}


def stacked(parts: Sequence[Columns]) -> Columns:
    """Columns of several kinds of activities; -1 where a kind lacks one."""
    widths = {name: values.dtype for part in parts for name, values in part.items()}
    for part in parts:
        rows = len(part["start_ns"])
        part.update({n: constant(w.type(NONE), rows) for n, w in widths.items() if n not in part})
    return whole(parts)


def as_table(name: str, columns: Columns, words: dict[str, list[str]]) -> pa.Table:
    """Columns as a table of SCHEMAS; missing ones are -1, in pieces that share their memory."""
    rows = len(columns["start_ns"])
    arrays = []
    for field in SCHEMAS[name]:
        values = columns.pop(field.name, None)
        known = pa.array(words.get(field.name, []), pa.string())
        if values is not None and is_constant(values):
            arrays.append(same(field.type, int(values[0]), rows, known))
        elif field.name in words and values is not None:
            indices = pa.array(values.astype(np.int32, copy=False), mask=values < 0)
            arrays.append(pa.chunked_array([pa.DictionaryArray.from_arrays(indices, known)]))
        elif values is not None:
            arrays.append(pa.chunked_array([pa.array(values, field.type)]))
        else:
            arrays.append(same(field.type, 0 if field.name == "source" else NONE, rows, known))
    return pa.table(arrays, schema=SCHEMAS[name])
