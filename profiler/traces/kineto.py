"""Traces of Kineto (torch.profiler) and other Chrome JSON, as common tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from profiler.traces.bytestream import ByteStream
from profiler.traces.columns import BAD, NONE, InexactTimesError, Words, identities, integers, nanoseconds
from profiler.traces.events import Events
from profiler.traces.kineto_events import (
    EMPTY,
    BriefEvent,
    BriefExactEvent,
    Event,
    ExactEvent,
    closed,
    shapes_of,
    sizes,
    small,
    sort_of,
)
from profiler.traces.kineto_facts import devices, origin
from profiler.traces.kineto_links import linked
from profiler.traces.tables import SCHEMAS, Loss, Trace
from specfiles.errors import InputError

# Categories, by every name that versions of Kineto and its forks gave them.
ACTIVITY = {
    "kernel": "kernel",
    "concurrent_kernel": "kernel",
    "gpu_op": "kernel",
    "gpu_memcpy": "copy",
    "memcpy": "copy",
    "gpu_memset": "set",
    "memset": "set",
}
RUNTIME = ("runtime", "cuda_runtime", "cuda_driver", "hip_runtime", "hip_driver")
RANGE = {
    "cpu_op": "operator",
    "operator": "operator",
    "user_annotation": "annotation",
    "nvtx": "nvtx",
    "python_function": "module",
}
IGNORED = ("ac2g", "async_gpu", "async_cpu_to_gpu", "gpu_user_annotation", "trace", "fwdbwd", "overhead")
MODULE = "nn.Module: "
STEP = "ProfilerStep"
LONGEST_NS = 3600 * 10**9  # nothing that runs on a GPU takes an hour
FARTHEST_NS = 7 * 86400 * 10**9  # nor does a trace last a week


def read(path: Path, *, brief: bool = False) -> Trace:
    """A Kineto or Chrome trace. `brief` reads activities only, for a breakdown by kernel.

    Everything complete is used; what was dropped or repaired is among the losses. Raises InputError for
    a file that is no such trace.
    """
    kinds: tuple[type[Event], ...] = (BriefEvent, BriefExactEvent) if brief else (Event, ExactEvent)
    try:
        return _Reader(path, kinds[0], brief).trace()
    except InexactTimesError:
        return _Reader(path, kinds[1], brief).trace()


class _Reader:
    """Columns as they grow, chunk by chunk."""

    def __init__(self, path: Path, kind: type[Event], brief: bool) -> None:
        self.path, self.brief = path, brief
        self.exact = issubclass(kind, ExactEvent)
        self.events = Events(ByteStream(path), kind)
        self.parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.words: dict[str, Words] = defaultdict(Words)
        self.open: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
        self.columns: dict[str, dict[str, Any]] = {}
        self.skipped: dict[str, int] = defaultdict(int)
        self.counts: dict[str, int] = defaultdict(int)

    def trace(self) -> Trace:
        for events in self.events:
            self._chunk(events)
        self._close_open()
        seen = sum(
            len(part["start_ns"]) for parts in self.parts.values() for part in parts if "start_ns" in part
        )
        if not seen and not sum(self.skipped.values()) and not self.events.header:
            why = f" ({self.events.broken})" if self.events.broken else ""
            raise InputError(f"{self.path}: holds no event of a Chrome or Kineto trace{why}.")
        tables = {name: self._table(name) for name in ("activities", "launches", "ranges", "samples")}
        trace = Trace((origin(self.path, self.events.header),), tables, devices(self.events.header))
        if not self.brief:
            trace = self._linked(trace)
        return replace(trace, losses=tuple(self._losses()))

    def _chunk(self, events: list[Any]) -> None:
        groups: dict[Any, list[Any]] = defaultdict(list)
        for event in events:
            groups[event.cat].append(event)
        for category, group in groups.items():
            self._group(str(category or "").casefold(), group)

    def _group(self, category: str, group: list[Any]) -> None:
        if category in IGNORED:
            return
        if category in ACTIVITY:
            self._activities(ACTIVITY[category], self._whole(group))
        elif self.brief and category:
            self.skipped[category] += len(group)
        elif category in RUNTIME or category.endswith(("_runtime", "_driver")):
            self._launches(self._whole(group))
        elif category == "python_function":
            self._ranges("module", [e for e in group if str(e.name).startswith(MODULE) and e.ph == "X"])
        elif category in RANGE:
            self._ranges(RANGE[category], self._whole(group))
        elif category == "cpu_instant_event":
            self._memory([e for e in group if e.name == "[memory]" and e.args is not None])
        elif not category:
            self._uncategorised(group)
        else:
            self.skipped[category] += len(group)

    def _uncategorised(self, group: list[Any]) -> None:
        """Events without `cat`: what they are shows in their names and arguments."""
        sorts: dict[str, list[Any]] = defaultdict(list)
        for event in self._whole([e for e in group if e.ph not in ("M", "i")]):
            sorts[sort_of(event)].append(event)
        for sort, found in sorts.items():
            if sort in ("kernel", "copy", "set"):
                self._activities(sort, found)
            elif not self.brief and sort == "runtime":
                self._launches(found)
            elif not self.brief and sort:
                self._ranges(sort, found)
            else:
                self.skipped["no category"] += len(found)
                continue
            self.counts["uncategorised"] += len(found)

    def _whole(self, group: list[Any]) -> list[Any]:
        """Events with a duration: complete ones, and begins with their ends."""
        if all(event.ph == "X" for event in group):
            return group
        found = []
        for event in group:
            if event.ph == "X" or (event.ph is None and event.dur is not None):
                found.append(event)
            elif event.ph == "B":
                self.open[event.pid, event.tid].append(event)
            elif event.ph == "E" and self.open[event.pid, event.tid]:
                begun = self.open[event.pid, event.tid].pop()
                found.append(closed(begun, event.ts, self.exact))
        return found

    def _close_open(self) -> None:
        """Ranges that never end are taken to last until the last event does."""
        left = [event for events in self.open.values() for event in events]
        if not left:
            return
        ends = [p["end_ns"].max() for parts in self.parts.values() for p in parts if len(p.get("end_ns", ()))]
        last = f"{max(ends) / 1000:.3f}" if ends else None
        self.counts["never closed"] += len(left)
        ended = [
            closed(e, msgspec.Raw(last.encode()) if self.exact and last else last, self.exact) for e in left
        ]
        groups: dict[Any, list[Any]] = defaultdict(list)
        for event in ended:
            groups[event.cat].append(event)
        self.open.clear()
        for category, group in groups.items():
            self._group(str(category or "").casefold(), group)

    def _times(self, group: list[Any]) -> dict[str, Any]:
        start = nanoseconds([e.ts for e in group], exact=self.exact)
        duration = nanoseconds([e.dur for e in group], short=True)
        missing = (start == BAD) | (duration == BAD)
        self.counts["no time"] += int(missing.sum())
        self.counts["negative"] += int((duration[~missing] < 0).sum())
        self.counts["absurd"] += int((duration[~missing] > LONGEST_NS).sum())
        bad = missing | (duration < 0) | (duration > LONGEST_NS)
        end = np.where(bad, BAD, np.where(bad, 0, start) + np.where(bad, 0, duration))
        return {"start_ns": start, "end_ns": end}

    def _activities(self, kind: str, group: list[Any]) -> None:
        if not group:
            return
        args = [e.args or EMPTY for e in group]
        processes = integers([e.pid for e in group])
        device = integers([a.device for a in args])
        stream = integers([a.stream for a in args])
        threads = integers([e.tid for e in group])
        self.counts["no stream"] += int((stream < 0).sum())
        part = {
            "device": np.where(device < 0, processes, device).clip(NONE, 2**31 - 1).astype(np.int32),
            "stream": np.where(stream < 0, threads, stream),
            "kind": self.words["kind"].codes([kind] * len(group)),
            "name": self.words["activities"].codes([e.name for e in group]),
            "bytes": integers([a.bytes for a in args]),
            "correlation": integers([a.correlation for a in args]),
            **self._times(group),
        }
        if not self.brief:
            external = integers([a.external if a.external is not None else a.external_old for a in args])
            part |= {
                "external": external,
                "graph": integers([a.graph for a in args]),
                "graph_node": integers([a.graph_node for a in args]),
                **sizes("grid", [a.grid for a in args]),
                **sizes("block", [a.block for a in args]),
                "registers": small([a.registers for a in args]),
                "shared_bytes": small([a.shared for a in args]),
            }
        self.parts["activities"].append(part)

    def _launches(self, group: list[Any]) -> None:
        if not group:
            return
        args = [e.args or EMPTY for e in group]
        self.parts["launches"].append(
            {
                **self._where(group),
                "name": self.words["launches"].codes([e.name for e in group]),
                "correlation": integers([a.correlation for a in args]),
                "kernel": self.words["activities"].codes([a.kernel for a in args]),
                **self._times(group),
            }
        )

    def _ranges(self, kind: str, group: list[Any]) -> None:
        if not group:
            return
        args = [e.args or EMPTY for e in group]
        kinds = ["step" if kind == "annotation" and str(e.name).startswith(STEP) else kind for e in group]
        external = [a.external if a.external is not None else a.external_old for a in args]
        self.parts["ranges"].append(
            {
                **self._where(group),
                "kind": self.words["range kind"].codes(kinds),
                "name": self.words["ranges"].codes([e.name for e in group]),
                "shapes": self.words["shapes"].codes([shapes_of(a) for a in args]),
                "external": integers(external),
                **self._times(group),
            }
        )

    def _where(self, group: list[Any]) -> dict[str, Any]:
        return {
            "process": identities([e.pid for e in group], self.words["places"]),
            "thread": identities([e.tid for e in group], self.words["places"]),
        }

    def _memory(self, group: list[Any]) -> None:
        group = [e for e in group if e.args.allocated is not None]
        if not group:
            return
        on_device = integers([e.args.memory_type for e in group]) > 0
        device = np.where(on_device, integers([e.args.memory_device for e in group]), NONE).astype(np.int32)
        time = nanoseconds([e.ts for e in group], exact=self.exact)
        for quantity, field in (("allocated_bytes", "allocated"), ("reserved_bytes", "reserved")):
            values = integers([getattr(e.args, field) for e in group]).astype(float)
            codes = self.words["quantity"].codes([quantity] * len(group))
            self.parts["samples"].append(
                {"device": device, "time_ns": time, "quantity": codes, "value": values}
            )

    def _table(self, name: str) -> pa.Table:
        """The parts of a table as one, bad times and duplicates taken out, in order of time."""
        parts = self.parts[name]
        if not parts:
            return SCHEMAS[name].empty_table()
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        parts.clear()
        keep = self._sound(columns) if "start_ns" in columns else columns["time_ns"] != BAD
        columns = {key: values[keep] for key, values in columns.items()}
        by = columns["start_ns" if "start_ns" in columns else "time_ns"]
        order = np.argsort(by, kind="stable")
        columns = {key: values[order] for key, values in columns.items()}
        if name == "activities":
            columns = self._distinct(columns)
        self.columns[name] = columns
        return self._arrow(name, columns)

    def _sound(self, columns: dict[str, Any]) -> Any:
        """Times that are times: present, positive, within a week of the others."""
        good = columns["end_ns"] != BAD
        if good.any():
            middle = np.median(columns["start_ns"][good])
            far = good & (np.abs(columns["start_ns"] - middle) > FARTHEST_NS)
            self.counts["far away"] += int(far.sum())
            good &= ~far
        return good

    def _distinct(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Every activity once: a stream runs no kernel twice at the same instant under the same name."""
        keys = [columns[k] for k in ("start_ns", "end_ns", "device", "stream", "name", "correlation")]
        order = np.lexsort(keys)
        same = np.ones(max(0, len(order) - 1), bool)
        for key in keys:
            same &= key[order][1:] == key[order][:-1]
        if not same.any():
            return columns
        self.counts["twice"] += int(same.sum())
        keep = np.ones(len(order), bool)
        keep[order[1:][same]] = False
        return {key: values[keep] for key, values in columns.items()}

    def _arrow(self, name: str, columns: dict[str, Any]) -> pa.Table:
        words = {
            "activities": {"kind": "kind", "name": "activities"},
            "launches": {"name": "launches", "kernel": "activities"},
            "ranges": {"kind": "range kind", "name": "ranges", "shapes": "shapes"},
            "samples": {"quantity": "quantity"},
        }[name]
        rows = len(next(iter(columns.values())))
        arrays = []
        for field in SCHEMAS[name]:
            if field.name in words:
                arrays.append(self.words[words[field.name]].array(columns[field.name]))
            elif field.name in columns:
                arrays.append(pa.array(columns[field.name], field.type))
            else:
                arrays.append(pa.array(np.full(rows, 0 if field.name == "source" else NONE), field.type))
        return pa.table(arrays, schema=SCHEMAS[name])

    def _linked(self, trace: Trace) -> Trace:
        columns, words = self.columns, {name: found.known for name, found in self.words.items()}
        trace, wrong = linked(trace, columns, words)
        self.counts["one id"] += wrong
        return trace

    def _losses(self) -> Iterable[Loss]:
        events, counts = self.events, self.counts
        cleaned = sum(words.cleaned for words in self.words.values())
        name = self.path.name
        host = len(self.columns.get("ranges", {}).get("name", ())) if "activities" not in self.columns else 0
        sentences: Sequence[tuple[str, int, str]] = (
            ("noted", host, "ranges of the host and no activity of a device: no GPU was recorded"),
            ("dropped", int(bool(events.broken)), f"{name}: {events.broken}; everything complete was used"),
            ("dropped", events.dropped, "events that are no JSON, even mended"),
            ("repaired", events.repaired, "events with characters or values mended"),
            ("dropped", counts["no time"], "events without a time or a duration"),
            ("dropped", counts["negative"], "events of negative duration"),
            ("dropped", counts["absurd"], "events longer than an hour"),
            ("dropped", counts["far away"], "events more than a week from the others"),
            ("repaired", counts["twice"], "activities recorded twice, counted once"),
            ("repaired", counts["never closed"], "ranges that never end, taken to last until the end"),
            ("repaired", counts["uncategorised"], "events without a category, known by name and arguments"),
            (
                "unlinked",
                counts["one id"],
                "activities that share one correlation with many others: not linked",
            ),
            ("noted", counts["no stream"], "activities without a stream; their thread stands in"),
            ("noted", cleaned, "names that were cut or had control characters"),
        )
        yield from (Loss(what=w, count=n, sentence=s) for w, n, s in sentences if n)
        for category, count in sorted(self.skipped.items())[:20]:
            if not self.brief:
                yield Loss(what="noted", count=count, sentence=f"events of category {category!r} not used")
