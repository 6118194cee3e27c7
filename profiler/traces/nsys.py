"""Reports of Nsight Systems, as the SQLite file that `nsys export` writes, as common tables.

Every table of such a file may be absent (they are made when the first event of their kind comes), and
columns come and go with versions; only the start and the end of an event are always there. Activities
belong to a call of the runtime by correlation id *and* process: by the id alone two processes mix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiler.allocator import return_freed_memory
from profiler.traces.columns import BAD, NONE
from profiler.traces.database import Database
from profiler.traces.linking import link_activities, link_launches
from profiler.traces.nsyscalls import Calls
from profiler.traces.nsyscategories import Categories
from profiler.traces.nsyscolumns import as_table, compact, integers, stacked, whole
from profiler.traces.nsysfacts import EXPORTED, DeviceNumbers, devices, origin, samples
from profiler.traces.nsysgraphs import NODES, link_nodes
from profiler.traces.nsysmemory import allocations
from profiler.traces.nsysnames import Strings, copy_name, range_names
from profiler.traces.sound import Columns, Losses, constant, in_order, sound_times
from profiler.traces.tables import SCHEMAS, Trace
from specfiles.errors import InputError

KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
COPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
SET = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
NVTX = "NVTX_EVENTS"
KINDS = {KERNEL: "kernel", COPY: "copy", SET: "set", GRAPH: "graph"}
RANGE_TYPES = (59, 60, 70, 71)  # push/pop and start/end, of NVTX and of its text form
DOMAIN_MADE = 75
UNSEEN = (
    "NVTX domains without any range: the recorded program's nvtx speaks to a newer nsys "
    "(record with nvtx 0.2.11 or older, or with a newer nsys)"
)
TIMES = {"start_ns": ("start",), "end_ns": ("end",)}
PLACE = {
    **TIMES,
    "process": ("globalPid",),
    "device": ("deviceId",),
    "stream": ("streamId",),
    "correlation": ("correlationId",),
}
CALL = {**TIMES, "thread": ("globalTid",)}  # the process is part of it
# Our column -> the columns of their table that hold it, best first.
WANTED: dict[str, dict[str, tuple[str, ...]]] = {
    KERNEL: {
        **PLACE,
        "name": ("demangledName", "shortName", "mangledName"),
        "graph": ("graphId",),
        "graph_node": ("graphNodeId",),
        **{f"{what}_{axis.lower()}": (f"{what}{axis}",) for what in ("grid", "block") for axis in "XYZ"},
        "registers": ("registersPerThread",),
        "shared_bytes": ("staticSharedMemory",),
        "dynamic": ("dynamicSharedMemory",),
    },
    COPY: {**PLACE, "name": ("copyKind",), "bytes": ("bytes",), "graph_node": ("graphNodeId",)},
    SET: {**PLACE, "bytes": ("bytes",), "graph_node": ("graphNodeId",)},
    GRAPH: {**PLACE, "name": ("graphId",), "graph": ("graphId",)},
    NODES: {**CALL, "node": ("graphNodeId",), "original": ("originalGraphNodeId",)},
    RUNTIME: {**CALL, "correlation": ("correlationId",), "name": ("nameId",)},
    NVTX: {
        **CALL,
        "type": ("eventType",),
        "text": ("text",),
        "text_id": ("textId",),
        "domain": ("domainId",),
        "category": ("category",),
    },
}
BRIEF = (*TIMES, "device", "stream", "name")
T = TypeVar("T")
VERSION = re.compile(r"_v\d+$")  # cudaLaunchKernel_v7000: API version appended by the tool
TEXT = "substr(coalesce({}, ''), 1, 4000)"  # an event's own name, truncated


def read(path: Path, *, brief: bool = False) -> Trace:
    """An SQLite export of Nsight Systems. `brief` reads activities only, for a breakdown by kernel.

    Dropped, repaired and unlinked events are counted in the losses. Raises InputError for other files,
    damaged ones, and ones without event times.
    """
    return _Report(path, brief).trace()


class _Report:
    """Reads one file into tables."""

    def __init__(self, path: Path, brief: bool) -> None:
        self.database = Database(path)
        if not any(table in self.database.columns for table in (*EXPORTED, *WANTED)):
            raise InputError(
                f"{path}: is an SQLite file, but no export of Nsight Systems (none of its tables is there); "
                "`nsys export --type sqlite REPORT.nsys-rep` makes one."
            )
        self.losses = Losses()
        self.domains = 0
        self.categories = Categories()
        self.strings = Strings(self.database)
        self.numbers = DeviceNumbers(self.database)
        self.brief = (*BRIEF, "process") if brief and self.numbers else BRIEF if brief else ()
        self.calls: Calls | None = None

    def trace(self) -> Trace:
        about, facts = origin(self.database), devices(self.database)
        trace = Trace((about,), {} if self.brief else self._host(), facts)
        trace = trace.with_table("activities", self._activities())
        return_freed_memory()
        self.losses.note("noted", self.strings.cleaned, "names that were cut or had control characters")
        trace = replace(trace, losses=self.losses.found())
        return trace if self.brief else link_nodes(link_activities(trace), self._nodes())

    def _nodes(self) -> Columns:
        """Events that made nodes of graphs."""
        return in_order(self._scan(NODES, lambda batch: compact("launches", integers(batch))), Losses())

    def _host(self) -> dict[str, pa.Table]:
        """Launches in their ranges, and samples: linked before activities take memory."""
        read = {"launches": self._launches(), "ranges": self._ranges()}
        tables = dict(link_launches(Trace((), read)).tables)
        kept = allocations(self.database, self.numbers)
        tables["samples"] = pa.concat_tables([samples(self.database), kept]).unify_dictionaries()
        return_freed_memory()
        return tables

    def _activities(self) -> pa.Table:
        found = {table: self._scan(table, self._placed) for table in KINDS}
        linked, self.calls = self.calls is not None, None  # as large as what is still to be done
        return_freed_memory()
        words: list[str] = []
        parts = []
        for code, (table, columns) in enumerate(found.items()):
            if not len(columns["start_ns"]):
                continue
            codes, names = self._names(table, columns)
            columns["name"] = codes + np.int32(len(words)) if words else codes
            columns["kind"] = constant(np.int32(code), len(codes))
            words += names
            parts.append(columns)
        return_freed_memory()
        columns = in_order(stacked(parts), self.losses, distinct=True)
        if linked:
            unlinked = int((columns["launch"] < 0).sum()) if parts else 0
            self.losses.note("unlinked", unlinked, "activities whose launching call was not recorded")
        self.losses.note("noted", int(not parts), "report without any kernel, copy or set")
        views = len(self.database.views & {*KINDS, RUNTIME, NVTX})
        self.losses.note("dropped", views, "views in the place of tables: what they ask for is not run")
        return as_table("activities", columns, {"name": words, "kind": list(KINDS.values())})

    def _placed(self, batch: pa.RecordBatch) -> Columns:
        """A batch of activities: the call that launched each, and the device that it ran on."""
        columns = sound_times(self._numbers(batch), self.losses)
        rows = len(columns["start_ns"])
        process = columns.get("process", constant(NONE, rows))
        if self.calls is not None:
            correlation = columns.pop("correlation", constant(NONE, rows))
            columns["launch"] = self.calls.rows(process, correlation)
        if "device" in columns:
            columns["device"] = self.numbers.of(process, columns["device"])
        if "dynamic" in columns:
            columns["shared_bytes"] = columns.get("shared_bytes", 0) + columns.pop("dynamic")
        return compact("activities", columns)

    def _numbers(self, batch: pa.RecordBatch) -> Columns:
        """A batch as integers, names that are written out (and not in StringIds) among them."""
        at = batch.schema.get_field_index("name")
        if at >= 0 and pa.types.is_string(batch.schema.field(at).type):
            batch = batch.set_column(at, "name", self.strings.numbers(batch.column(at)))
        return integers(batch)

    def _names(self, table: str, columns: Columns) -> tuple[Any, list[str]]:
        """Codes of the activities' names, and the names."""
        rows = len(columns["start_ns"])
        if "name" not in columns:
            only = {KERNEL: "(no name)", COPY: "memcpy", SET: "memset", GRAPH: "CUDA graph"}[table]
            return np.zeros(rows, np.int32), [only]
        if table == KERNEL:
            return self.strings.used(columns["name"])
        known, codes = np.unique(columns["name"], return_inverse=True)
        names = [copy_name(value) if table == COPY else f"CUDA graph {value}" for value in known.tolist()]
        return codes.astype(np.int32), names

    def _launches(self) -> pa.Table:
        """Runtime calls; their correlation ids are kept by process until activities are linked."""
        columns = self._scan(
            RUNTIME, lambda batch: compact("launches", sound_times(self._numbers(batch), self.losses))
        )
        columns = in_order(columns, self.losses)
        nothing = constant(NONE, len(columns["start_ns"]))
        self.calls = Calls(columns.get("process", nothing), columns.pop("correlation", nothing))
        twice = self.calls.twice
        self.losses.note("noted", twice, "calls that share a correlation id; the first was taken")
        columns["name"], names = self.strings.used(columns.pop("name", nothing), VERSION)
        return as_table("launches", columns, {"name": names})

    def _ranges(self) -> pa.Table:
        texts: list[pa.DictionaryArray] = []

        def numbers(part: tuple[Columns, pa.DictionaryArray]) -> Columns:
            texts.append(part[1])
            return part[0]

        columns = whole(map(numbers, self._batches(NVTX, self._ranged)))
        if not len(columns["start_ns"]):
            self.losses.note("noted", self.domains, UNSEEN)
            return SCHEMAS["ranges"].empty_table()
        codes, words, cleaned = range_names(texts)
        if self.categories.named:
            sized, known = self.categories.sizes(columns)
            shapes, plain = codes["shapes"], words["shapes"]
            codes["shapes"] = np.where((shapes < 0) & (sized >= 0), sized + len(plain), shapes)
            words["shapes"] = [*plain, *known]
        self.losses.note("noted", cleaned, "names that were cut or had control characters")
        columns = in_order(columns | codes, self.losses)
        unclosed = columns["end_ns"] == BAD
        last = max(int(columns["end_ns"].max()), int(columns["start_ns"].max()))
        self.losses.note("repaired", unclosed.sum(), "ranges never closed, taken to last to the end")
        columns["end_ns"] = np.where(unclosed, last, columns["end_ns"])
        return as_table("ranges", columns, words)

    def _ranged(self, batch: pa.RecordBatch) -> tuple[Columns, pa.DictionaryArray]:
        """A batch of NVTX ranges and their texts; missing ends stay BAD."""
        if "type" in batch.schema.names:
            self.categories.add(batch, self.strings)
            self.domains += pc.sum(pc.equal(batch["type"], DOMAIN_MADE)).as_py() or 0
            batch = batch.filter(pc.is_in(batch["type"], pa.array(RANGE_TYPES, pa.int64())))
            batch = batch.drop_columns(["type"])
        texts = self.strings.texts(batch)
        columns = integers(batch.select([n for n in batch.schema.names if n not in ("text", "text_id")]))
        columns = sound_times({**columns, "row": np.arange(batch.num_rows)}, self.losses, ranges=True)
        texts = texts.take(pa.array(columns.pop("row")))
        return compact("ranges", columns), texts

    def _scan(self, table: str, shape: Callable[[pa.RecordBatch], Columns]) -> Columns:
        return whole(self._batches(table, shape))

    def _batches(self, table: str, shape: Callable[[pa.RecordBatch], T]) -> Iterator[T]:
        """A table's batches, reshaped; none where there is no such table. Required: start and end."""
        if table not in self.database.columns:
            return iter(())
        asked = {}
        for ours, theirs in WANTED[table].items():
            found = next((column for column in theirs if self.database.has(table, column)), None)
            if found is not None and (not self.brief or ours in self.brief):
                asked[ours] = TEXT.format(found) if ours == "text" else f'"{found}"'
        for ours, (needed,) in TIMES.items():
            if ours not in asked:
                has = ", ".join(list(self.database.columns[table])[:12])
                raise InputError(
                    f"{self.database.path}: {table} has no column {needed!r} (it has: {has}); "
                    "export the report again."
                )
        return self.database.scan(table, asked, shape)
