"""Traces of Kineto (torch.profiler) and other Chrome JSON, as common tables."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from profiler.traces.bytestream import ByteStream
from profiler.traces.columns import InexactTimesError
from profiler.traces.events import Events
from profiler.traces.kineto_columns import KinetoColumns
from profiler.traces.kineto_events import (
    BriefEvent,
    BriefExactEvent,
    Event,
    ExactEvent,
    Pairs,
    moves,
    sort_of,
)
from profiler.traces.kineto_facts import devices, origin
from profiler.traces.kineto_links import linked
from profiler.traces.kineto_tracks import Tracks
from profiler.traces.sound import Losses
from profiler.traces.tables import Trace
from specfiles.errors import InputError

# Categories, by all their names in versions of Kineto and its forks.
ACTIVITY = {
    "kernel": "kernel",
    "concurrent_kernel": "kernel",
    "gpu_op": "kernel",
    "gpu_memcpy": "copy",
    "memcpy": "copy",
    "gpu_memset": "set",
    "memset": "set",
    "mtia_ccp_events": "kernel",
    "gcu_memcpy": "copy",
    "gcu_memset": "set",
}
RUNTIME = ("runtime", "cuda_runtime", "cuda_driver", "hip_runtime", "hip_driver")
RANGE = {
    "cpu_op": "operator",
    "operator": "operator",
    "user_annotation": "annotation",
    "nvtx": "nvtx",
    "python_function": "module",
}
IGNORED = ("gpu_user_annotation", "trace", "fwdbwd", "overhead")
FLOWS = ("ac2g", "async", "async_gpu", "async_cpu_to_gpu", "async_npu")  # from a call to its activity
MODULE = "nn.Module: "
COMPLETE = "X"
LISTED = 20  # unused categories and phases listed


def read(path: Path, *, brief: bool = False) -> Trace:
    """A Kineto or Chrome trace. `brief` reads activities only, for a breakdown by kernel.

    All complete events are used; dropped and repaired ones are counted in the losses. Raises InputError for
    other files.
    """
    kinds: tuple[type[Event], ...] = (BriefEvent, BriefExactEvent) if brief else (Event, ExactEvent)
    kind, flows = kinds[0], False
    while True:
        reader = _Reader(path, kind, brief=brief, flows=flows)
        try:
            trace = reader.trace()
        except InexactTimesError:
            kind = kinds[1]
            continue
        if flows or not reader.needs_flows():
            return trace
        flows = True
        del trace  # before the file is read again


class _Reader:
    """Sorts events by category; their columns are made elsewhere."""

    def __init__(self, path: Path, kind: type[Event], *, brief: bool, flows: bool) -> None:
        self.path, self.brief, self.flows = path, brief, flows
        exact = issubclass(kind, ExactEvent)
        self.events = Events(ByteStream(path), kind)
        self.losses = Losses()
        self.columns = KinetoColumns(self.losses, exact=exact, brief=brief, flows=flows)
        self.pairs = Pairs(exact)
        self.tracks = Tracks()
        self.skipped: dict[str, int] = defaultdict(int)
        self.arrows = 0  # flow events skipped

    def trace(self) -> Trace:
        for events in self.events:
            self._chunk(self.pairs.joined(events))
        self._close_open()
        if not self.columns and not sum(self.skipped.values()) and not self.events.header:
            why = f" ({self.events.broken})" if self.events.broken else ""
            raise InputError(f"{self.path}: holds no event of a Chrome or Kineto trace{why}.")
        tables = {name: self.columns.table(name) for name in ("activities", "launches", "ranges", "samples")}
        trace = Trace((origin(self.path, self.events.header),), tables, devices(self.events.header))
        if not self.brief:
            words = {name: found.known for name, found in self.columns.words.items()}
            trace = linked(trace, self.columns.columns, words, self.columns.arrows(), self.losses)
        self._say_losses(trace)
        return replace(trace, losses=self.losses.found())

    def needs_flows(self) -> bool:
        """Whether only arrows link activities; usually they duplicate the ids."""
        found = self.columns.columns.get("activities")
        if self.brief or not self.arrows or not found:
            return False
        return all(not (found[name] > 0).any() for name in ("correlation", "external"))

    def _chunk(self, events: list[Any]) -> None:
        groups: dict[Any, list[Any]] = defaultdict(list)
        for event in events:
            groups[event.cat].append(event)
        for category, group in groups.items():
            self._group(str(category or "").casefold(), group)

    def _group(self, category: str, group: list[Any]) -> None:
        if category in IGNORED:
            return
        if category in FLOWS:
            if self.flows:
                self.columns.add_flows(group)
            self.arrows += len(group)
        elif category in ACTIVITY:
            self.columns.add_activities(ACTIVITY[category], self._whole(group))
        elif self.brief and category:
            self.skipped[category] += len(group)
        elif category in RUNTIME or category.endswith(("_runtime", "_driver")):
            self.columns.add_launches(self._whole(group))
        elif category == "python_function":
            self.columns.add_ranges(
                "module", [e for e in group if str(e.name).startswith(MODULE) and e.ph == COMPLETE]
            )
        elif category in RANGE:
            self.columns.add_ranges(RANGE[category], self._whole(group))
        elif category == "cpu_instant_event":
            self.columns.add_memory([e for e in group if e.name == "[memory]" and e.args is not None])
        elif not category:
            self._uncategorised(group)
        else:
            self.skipped[category] += len(group)

    def _uncategorised(self, group: list[Any]) -> None:
        """Events without `cat`, classified by names, arguments, processes and threads."""
        for event in group:
            self.tracks.learn(event)
        sorts: dict[tuple[str, bool], list[Any]] = defaultdict(list)
        for event in self._whole([e for e in group if e.ph in (COMPLETE, None)]):
            on_device = self.tracks.is_device(event)
            if not on_device:
                sort = sort_of(event)
            else:
                sort = (moves(str(event.name)) or "kernel") if self.tracks.works(event) else ""
            sorts[sort, on_device].append(event)
        for (sort, on_device), found in sorts.items():
            if sort in ("kernel", "copy", "set"):
                devices = [self.tracks.device(event) for event in found] if on_device else []
                self.columns.add_activities(sort, found, devices)
            elif not self.brief and sort == "runtime":
                self.columns.add_launches(found)
            elif not self.brief and sort:
                self.columns.add_ranges(sort, found)
            else:
                self.skipped["no category"] += len(found)
                continue
            self.losses.note("repaired", len(found), "events without a category, known by name and arguments")

    def _whole(self, group: list[Any]) -> list[Any]:
        """Events with a duration, of categories that also have others (instants, flows)."""
        if all(event.ph == COMPLETE for event in group):
            return group
        found = [e for e in group if e.ph == COMPLETE or (e.ph is None and e.dur is not None)]
        if not self.brief:
            self.skipped["events without a duration"] += len(group) - len(found)
        return found

    def _close_open(self) -> None:
        """Ranges that never end are taken to last until the end of the last event."""
        left = self.pairs.left(self.columns.last_ns)
        self.losses.note("repaired", len(left), "ranges that never end, taken to last until the end")
        self._chunk(left)

    def _say_losses(self, trace: Trace) -> None:
        events, note = self.events, self.losses.note
        host = 0 if trace["activities"].num_rows else trace["ranges"].num_rows
        note("noted", host, "ranges of the host and no activity of a device: no GPU was recorded")
        note(
            "dropped", bool(events.broken), f"{self.path.name}: {events.broken}; everything complete was used"
        )
        several = events.documents if events.documents > 1 else 0
        note("noted", several, "documents one behind the other in one file, taken to be on one clock")
        note("dropped", events.dropped, "events that are no JSON, even mended")
        note("dropped", self.pairs.ends, "ends of ranges that never began")
        note("repaired", events.repaired, "events with characters or values mended")
        note("noted", self.columns.cleaned, "names that were cut or had control characters")
        if not self.brief:
            for category, count in sorted(self.skipped.items())[:LISTED]:
                note("noted", count, f"events of category {category!r} not used")
