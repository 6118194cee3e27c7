"""The tables of any trace: activities of devices, the calls that launched them, ranges of the host.

Times are whole nanoseconds on the trace's own clock, so that no busy or idle time is lost to rounding.
`source` numbers the trace file within an import (ranks and tools may share process ids); a process is
identified by (source, process), a thread by (source, process, thread). Unknown values are -1 in integer
columns, and null names or shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.columns import NONE
from roofline.run_head import DeviceFacts, Loss, Origin
from workloads.work import Work

__all__ = ["DeviceFacts", "Loss", "Origin", "Trace", "make_table", "merge"]
WORD = pa.dictionary(pa.int32(), pa.string())

# One row per kernel, copy, set or whole graph that ran on a device.
ACTIVITIES = pa.schema(
    [
        ("source", pa.int16()),
        ("process", pa.int32()),  # the host process, where recorded
        ("device", pa.int32()),
        ("stream", pa.int64()),
        ("kind", WORD),  # kernel | copy | set | graph (a graph recorded as one row)
        ("name", WORD),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("launch", pa.int32()),  # row of the launches
        ("range", pa.int32()),  # row of the innermost range around the launch
        ("graph", pa.int64()),  # the graph, or the launch of one, that the activity belongs to
        ("graph_node", pa.int64()),
        ("bytes", pa.int64()),  # of copies and sets
        *((f"{what}_{axis}", pa.int32()) for what in ("grid", "block") for axis in "xyz"),
        ("registers", pa.int32()),  # of a thread
        ("shared_bytes", pa.int32()),  # of a block
    ]
)
# One row per call of the CUDA or HIP runtime or driver.
LAUNCHES = pa.schema(
    [
        ("source", pa.int16()),
        ("process", pa.int32()),
        ("thread", pa.int64()),
        ("name", WORD),  # cudaLaunchKernel, hipGraphLaunch, cudaStreamSynchronize, ...
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("correlation", pa.int64()),  # the tool's id; not kept for Nsight Systems
        ("kernel", WORD),  # the kernel's name, where the call has it (ROCm)
        ("range", pa.int32()),  # row of the innermost range around the call
    ]
)
# One row per range of host code: operators, annotations, modules, steps.
RANGES = pa.schema(
    [
        ("source", pa.int16()),
        ("process", pa.int64()),
        ("thread", pa.int64()),
        ("kind", WORD),  # nvtx | annotation (record_function) | operator | module | step
        ("name", WORD),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("parent", pa.int32()),  # row of the range around it
        ("shapes", WORD),  # JSON: {"dims": [[..], ..], "types": [..], "values": [..]} as recorded,
        # or kind and sizes of an operator: {"kind": "gemm", "m": .., ..}
    ]
)
# One row per sample of a quantity: power_w, sm_clock_hz, allocated_bytes, ...
SAMPLES = pa.schema(
    [
        ("source", pa.int16()),
        ("device", pa.int32()),
        ("time_ns", pa.int64()),
        ("quantity", WORD),
        ("value", pa.float64()),
    ]
)
# One row per kernel whose hardware counters were read (Nsight Compute), in order of launch.
COUNTERS = pa.schema(
    [
        ("source", pa.int16()),
        ("process", pa.int64()),
        ("device", pa.int32()),
        ("name", WORD),
        ("order", pa.int64()),
        ("metric", WORD),  # time_s, flops, dram_bytes, l2_bytes, ... in SI units
        ("value", pa.float64()),
    ]
)
# One row per activity, in their order.
ATTRIBUTION = pa.schema(
    [
        ("operator", WORD),  # the innermost operator or range around it; null without any
        ("kind", WORD),  # operator kind of workloads/operators, or of kernel_rules.yaml; unknown
        ("phase", WORD),  # prefill | decode | mixed; null if unknown
        ("layer", pa.int32()),
        ("step", pa.int32()),
        ("instance", pa.int64()),  # activities of one execution of an operator share it
        ("how", WORD),  # the source of its work: shapes | capture | neighbours | model | counters; null: none
        ("dtype", WORD),  # the format of the matrix units
        # Work of the whole instance, on its longest activity; 0 on the others of the instance.
        ("matrix_flops", pa.float64()),
        ("vector_flops", pa.float64()),
        ("special_ops", pa.float64()),
        ("work_bytes", pa.float64()),
        ("comm_bytes", pa.float64()),
        ("warning", WORD),  # why a ceiling may not apply: sparse tensor cores, ...
    ]
)
# One row per step whose sizes are known.
PASSES = pa.schema(
    [
        ("step", pa.int32()),
        ("phase", WORD),
        ("batch", pa.int64()),
        ("q_len", pa.int64()),  # new positions of each sequence
        ("kv_len", pa.int64()),  # visible ones, these included; the mean over the sequences
    ]
)
SCHEMAS = {
    "activities": ACTIVITIES,
    "launches": LAUNCHES,
    "ranges": RANGES,
    "samples": SAMPLES,
    "counters": COUNTERS,
    "attribution": ATTRIBUTION,
    "passes": PASSES,
}
WORK = ("matrix_flops", "vector_flops", "special_ops", "work_bytes", "comm_bytes")  # of the attribution
# Columns that hold a row of another table, and the table.
ROWS = {
    "activities": {"launch": "launches", "range": "ranges"},
    "launches": {"range": "ranges"},
    "ranges": {"parent": "ranges"},
    "attribution": {"instance": "activities"},
}


@dataclass(frozen=True)
class Trace:
    """One or several trace files as tables (SCHEMAS), with losses."""

    origins: tuple[Origin, ...]
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    devices: tuple[DeviceFacts, ...] = ()
    losses: tuple[Loss, ...] = ()

    def __getitem__(self, name: str) -> pa.Table:
        """A table, with its documented columns even if empty."""
        return self.tables[name] if name in self.tables else SCHEMAS[name].empty_table()

    def column(self, table: str, name: str) -> Any:
        """A column as a NumPy array: numbers, or codes of words (null is -1)."""
        values = self[table][name]
        if pa.types.is_dictionary(values.type):
            codes = unified(values).indices
            values = codes.fill_null(NONE) if codes.null_count else codes
        return values.to_numpy()

    def words(self, table: str, name: str) -> list[str]:
        """The dictionary of a column's codes."""
        chunks = self[table][name].unify_dictionaries().chunks
        found: list[str] = chunks[0].dictionary.to_pylist() if chunks else []
        return found

    def of_kind(self, table: str, *kinds: str) -> Any:
        """A mask of the rows of these kinds."""
        wanted = [code for code, word in enumerate(self.words(table, "kind")) if word in kinds]
        return np.isin(self.column(table, "kind"), wanted)

    @property
    def spent_ns(self) -> Any:
        """How long each activity ran."""
        return self.column("activities", "end_ns") - self.column("activities", "start_ns")

    def by_device(self, table: str) -> Iterator[tuple[int, int, Any]]:
        """The trace file and number of each device in a table, the host (-1) last, and a mask of its rows."""
        source, device = self.column(table, "source"), self.column(table, "device")
        packed = pa.array(source.astype(np.int64) << 32 | device.astype(np.uint32)).unique().to_pylist()
        for place in sorted(packed):
            s, d = place >> 32, (place & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
            yield s, d, (source == s) & (device == d)

    def with_table(self, name: str, table: pa.Table) -> Trace:
        """This trace with one table replaced."""
        return replace(self, tables={**self.tables, name: table.cast(SCHEMAS[name])})

    def with_column(self, table: str, name: str, values: Any) -> Trace:
        """This trace with one column replaced."""
        at = SCHEMAS[table].get_field_index(name)
        kept = SCHEMAS[table].field(at)
        return self.with_table(table, self[table].set_column(at, kept, pa.array(values, kept.type)))

    def with_notes(self, counts: Mapping[str, int]) -> Trace:
        """This trace with notes: sentences and the number of rows they hold for."""
        losses = [Loss(what="noted", count=n, sentence=sentence) for sentence, n in counts.items() if n]
        return replace(self, losses=(*self.losses, *losses))


def unified(values: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column of words as one array with one dictionary."""
    if values.num_chunks == 1:
        return values.chunk(0)
    whole = values.unify_dictionaries().combine_chunks()
    return whole if isinstance(whole, pa.DictionaryArray) else whole.chunk(0)


def make_table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    """A table of SCHEMAS from arrays or lists; columns not given hold -1, null or NaN, `source` 0.

    Words may be given as a list of strings or as a pyarrow DictionaryArray.
    """
    schema = SCHEMAS[name]
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise KeyError(f"the table {name} has no column {sorted(unknown)[0]}")
    rows = len(next(iter(columns.values()))) if columns else 0
    return pa.table([_column(f, columns.get(f.name), rows) for f in schema], schema=schema)


def _column(field: pa.Field, values: Any, rows: int) -> pa.Array:
    kind = field.type
    if values is None:
        if pa.types.is_dictionary(kind):
            return pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int32()), pa.array([], pa.string()))
        fill = np.nan if pa.types.is_floating(kind) else 0 if field.name == "source" else NONE
        return pa.array(np.full(rows, fill, dtype=kind.to_pandas_dtype()))
    if pa.types.is_dictionary(kind) and not isinstance(values, pa.DictionaryArray):
        return pa.array(values, pa.string()).dictionary_encode()
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def work_values(work: Work) -> tuple[float, ...]:
    """The values of the columns WORK."""
    parts = (work.matrix_flops, work.vector_flops, work.special_ops, work.bytes, work.comm_bytes)
    return tuple(float(part) for part in parts)


def merge(traces: Sequence[Trace]) -> Trace:
    """Several traces as one: sources renumbered, row numbers shifted."""
    if len(traces) == 1:  # nothing to shift, and a copy of every such column would be made
        return traces[0]
    origins: list[Origin] = []
    parts: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}
    devices: list[DeviceFacts] = []
    before = dict.fromkeys(SCHEMAS, 0)
    for trace in traces:
        for name, schema in SCHEMAS.items():
            shifted = {c: before[to] for c, to in ROWS.get(name, {}).items()}
            if "source" in schema.names:
                shifted["source"] = len(origins)
            parts[name].append(_shift(trace[name], shifted))
        for name in SCHEMAS:
            before[name] += trace[name].num_rows
        devices += [d.replace(source=d.source + len(origins)) for d in trace.devices]
        origins += trace.origins
    tables = {name: pa.concat_tables(found).unify_dictionaries() for name, found in parts.items()}
    return Trace(tuple(origins), tables, tuple(devices), _summed(loss for t in traces for loss in t.losses))


def _summed(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    """Losses with counts summed by sentence."""
    counts: dict[tuple[str, str], int] = {}
    for loss in losses:
        key = loss.what, loss.sentence
        counts[key] = counts.get(key, 0) + loss.count
    return tuple(Loss(what=what, count=count, sentence=said) for (what, said), count in counts.items())


def _shift(table: pa.Table, by: Mapping[str, int]) -> pa.Table:
    for name, amount in by.items():
        at = table.schema.get_field_index(name)
        old = table[name].to_numpy()
        new = np.where(old >= 0, old + amount, old) if name != "source" else old + amount
        table = table.set_column(at, table.schema.field(name), pa.array(new, table.schema.field(name).type))
    return table
