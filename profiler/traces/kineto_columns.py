"""Kineto's events of one type as columns, in chunks, and the columns as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.columns import BAD, NONE, Words, identities, integers, nanoseconds, processes
from profiler.traces.kineto_events import EMPTY, correlation, external, shapes_of, sizes, small
from profiler.traces.nsyscolumns import as_table, compact
from profiler.traces.sound import LONGEST_NS, Losses, in_order, joined, kept
from profiler.traces.tables import SCHEMAS, make_table

STEP = "ProfilerStep"
WORDS = {  # columns of codes, and their dictionaries
    "activities": {"kind": "kind", "name": "activities"},
    "launches": {"name": "launches", "kernel": "activities"},
    "ranges": {"kind": "range kind", "name": "ranges", "shapes": "shapes"},
    "samples": {"quantity": "quantity"},
}


class KinetoColumns:
    """Growing columns, then `tables`. Invalid times and duplicates are counted in the losses."""

    def __init__(self, losses: Losses, *, exact: bool, brief: bool, flows: bool) -> None:
        self.losses, self.exact, self.brief, self.flows = losses, exact, brief, flows
        self.words: dict[str, Words] = defaultdict(Words)
        self.columns: dict[str, dict[str, Any]] = {}  # by table, with Kineto's ids
        self._parts: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def __bool__(self) -> bool:
        return any(
            len(part["name"]) for name in ("activities", "launches", "ranges") for part in self._parts[name]
        )

    @property
    def cleaned(self) -> int:
        """Names that were cut or had control characters."""
        return sum(words.cleaned for words in self.words.values())

    @property
    def last_ns(self) -> int | None:
        """The end of the last event so far."""
        ends = [p["end_ns"].max() for ps in self._parts.values() for p in ps if len(p.get("end_ns", ()))]
        return int(max(ends)) if ends and max(ends) != BAD else None

    def add_activities(self, kind: str, group: list[Any], devices: Sequence[int] = ()) -> None:
        """Kernels, copies or sets; `devices` where their arguments do not give the device."""
        if not group:
            return
        args = [e.args or EMPTY for e in group]
        processes = np.array(devices) if devices else integers([e.pid for e in group])
        device = integers([a.device for a in args])
        stream = integers([a.stream for a in args])
        threads = integers([e.tid for e in group])
        self.losses.note("noted", (stream < 0).sum(), "activities without a stream; their thread stands in")
        part = {
            "device": np.where(device < 0, processes, device).clip(NONE, 2**31 - 1).astype(np.int32),
            "stream": np.where(stream < 0, threads, stream),
            "kind": self.words["kind"].codes([kind] * len(group)),
            "name": self.words["activities"].codes([e.name for e in group]),
            "bytes": integers([a.bytes for a in args]),
            "correlation": integers([correlation(a) for a in args]),
            **self._times(group),
        }
        if not self.brief:
            part |= {
                "external": integers([external(a) for a in args]),
                "graph": integers([a.graph for a in args]),
                "graph_node": integers([a.graph_node for a in args]),
                **sizes("grid", [a.grid for a in args]),
                **sizes("block", [a.block for a in args]),
                "registers": small([a.registers for a in args]),
                "shared_bytes": small([a.shared for a in args]),
            }
        if self.flows:
            places = self._where(group)
            part |= {"place_process": places["process"], "place_thread": places["thread"]}
        self._parts["activities"].append(compact("activities", part))

    def add_launches(self, group: list[Any]) -> None:
        """Calls of the runtime or driver."""
        if not group:
            return
        args = [e.args or EMPTY for e in group]
        part = {
            **self._where(group),
            "name": self.words["launches"].codes([e.name for e in group]),
            "correlation": integers([correlation(a) for a in args]),
            "kernel": self.words["activities"].codes([a.kernel for a in args]),
            **self._times(group),
        }
        self._parts["launches"].append(compact("launches", part))

    def add_ranges(self, kind: str, group: list[Any]) -> None:
        """Operators, annotations, modules; annotations that name profiler steps become steps."""
        if not group:
            return
        args = [e.args or EMPTY for e in group]
        kinds = ["step" if kind == "annotation" and str(e.name).startswith(STEP) else kind for e in group]
        part = {
            **self._where(group),
            "kind": self.words["range kind"].codes(kinds),
            "name": self.words["ranges"].codes([e.name for e in group]),
            "shapes": self.words["shapes"].codes([shapes_of(a) for a in args]),
            "external": integers([external(a) for a in args]),
            **self._times(group),
        }
        self._parts["ranges"].append(compact("ranges", part))

    def add_flows(self, group: list[Any]) -> None:
        """Starts and ends of arrows."""
        group = [e for e in group if e.ph in ("s", "f") and e.id is not None]
        if group:
            time = nanoseconds([e.ts for e in group], exact=self.exact)
            arrows = self.words["arrows"].codes([f"{e.name} {e.id}" for e in group])
            begins = np.array([e.ph == "s" for e in group])
            times = {"start_ns": time, "end_ns": time}
            self._parts["flows"].append({**self._where(group), "arrow": arrows, "begins": begins, **times})

    def arrows(self) -> dict[str, Any]:
        """The flows as columns, in order of time; empty where there are none."""
        return self._joined("flows")

    def add_memory(self, group: list[Any]) -> None:
        """Bytes held by the allocator after each allocation."""
        group = [e for e in group if e.args.allocated is not None]
        if not group:
            return
        on_device = integers([e.args.memory_type for e in group]) > 0
        device = np.where(on_device, integers([e.args.memory_device for e in group]), NONE).astype(np.int32)
        time = nanoseconds([e.ts for e in group], exact=self.exact)
        for quantity, field in (("allocated_bytes", "allocated"), ("reserved_bytes", "reserved")):
            values = integers([getattr(e.args, field) for e in group]).astype(float)
            codes = self.words["quantity"].codes([quantity] * len(group))
            self._parts["samples"].append(
                {"device": device, "time_ns": time, "quantity": codes, "value": values}
            )

    def table(self, name: str) -> pa.Table:
        """The parts of a table as one, without bad times and duplicates, in order of time."""
        columns = self._joined(name)
        if not columns:
            return SCHEMAS[name].empty_table()
        self.columns[name] = columns
        if name != "samples":
            return as_table(name, dict(columns), {key: self.words[c].known for key, c in WORDS[name].items()})
        words = {key: self.words[code].array(columns[key]) for key, code in WORDS[name].items()}
        return make_table(name, columns | words)

    def _joined(self, name: str) -> dict[str, Any]:
        parts = self._parts.pop(name, [])
        if not parts:
            return {}
        columns = joined(parts)
        columns = kept(columns, columns["time_ns" if name == "samples" else "end_ns"] != BAD)
        if name == "samples":
            order = np.argsort(columns["time_ns"], kind="stable")
            return {key: values[order] for key, values in columns.items()}
        return in_order(columns, self.losses, distinct=name == "activities")

    def _where(self, group: list[Any]) -> dict[str, Any]:
        return {
            "process": processes([e.pid for e in group], self.words["places"]),
            "thread": identities([e.tid for e in group], self.words["places"]),
        }

    def _times(self, group: list[Any]) -> dict[str, Any]:
        start = nanoseconds([e.ts for e in group], exact=self.exact)
        duration = nanoseconds([e.dur for e in group], short=True)
        missing = (start == BAD) | (duration == BAD)
        negative, absurd = ~missing & (duration < 0), ~missing & (duration > LONGEST_NS)
        self.losses.note("dropped", missing.sum(), "events without a time or a duration")
        self.losses.note("dropped", negative.sum(), "events of negative duration")
        self.losses.note("dropped", absurd.sum(), "events longer than an hour")
        bad = missing | negative | absurd
        end = np.where(bad, BAD, np.where(bad, 0, start) + np.where(bad, 0, duration))
        return {"start_ns": start, "end_ns": end}
