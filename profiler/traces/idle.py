"""Causes of idle time, queue depth, and overlap of communication with computation."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from profiler.traces.intervals import common, length, union
from profiler.traces.nesting import threads
from profiler.traces.rules import COMMUNICATION, MOVES, known_kernel
from profiler.traces.tables import Trace

SYNCHRONISE = re.compile("Synchronize|StreamWaitEvent|EventQuery|StreamQuery|DeviceReset", re.IGNORECASE)
COPY = re.compile("Memcpy|Memset", re.IGNORECASE)
# cause -> what it means
CAUSES = {
    "host": "the host launched too late",
    "synchronisation": "the host waited for the device before it launched more",
    "copy": "the host was inside a copy call",
    "launch latency": "launched after the device went idle; the kernel had not started yet",
    "between kernels": "launched in time, next on the same stream: kernel start-up",
    "data wait": "launched in time, waiting for work on another stream",
    "copy wait": "launched in time, waiting for a copy or set on another stream",
    "queued": "launched in time; its stream is not recorded",
    "unknown": "no launch is recorded",
}
LAUNCHED_BEFORE = ("data wait", "copy wait", "between kernels", "queued")


def idle_causes(trace: Trace) -> dict[str, float]:
    """Seconds of idle time by cause; their sum is the idle time of all devices."""
    found = dict.fromkeys(CAUSES, 0)
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    calls = _Calls(trace)
    if trace.of_kind("activities", "host").any():  # no device was recorded
        return dict.fromkeys(CAUSES, 0.0)
    for _, _, here in trace.by_device("activities"):
        rows = np.flatnonzero(here & (end > start))
        rows = rows[np.argsort(start[rows], kind="stable")]
        begins, ends = union(start[rows], end[rows])
        following = rows[np.searchsorted(start[rows], begins[1:])]
        waits = _waits(trace, rows, ends[:-1], following)
        causes = calls.explain(ends[:-1], begins[1:], following, waits)
        for cause, value in causes.items():
            found[cause] += value
        # Activities of zero length may precede the first or follow the last of non-zero length.
        idle = int(end[here].max() - start[here].min()) - length(begins, ends)
        found["unknown"] += idle - sum(causes.values())
    return {cause: value / 1e9 for cause, value in found.items()}


class _Calls:
    """Calls of the host, by thread."""

    def __init__(self, trace: Trace) -> None:
        place = tuple(trace.column("launches", name) for name in ("source", "process", "thread"))
        (self.thread,) = threads(place)
        self.start, self.end = trace.column("launches", "start_ns"), trace.column("launches", "end_ns")
        self.launch = trace.column("activities", "launch")
        names, code = trace.words("launches", "name"), trace.column("launches", "name")
        self.kinds = {
            kind: np.isin(code, [c for c, name in enumerate(names) if pattern.search(name)])
            for kind, pattern in (("synchronisation", SYNCHRONISE), ("copy", COPY))
        }

    def explain(self, begin: Any, end: Any, following: Any, waits: Any) -> dict[str, int]:
        """Nanoseconds by cause of the gaps from `begin` to `end`, each before the activity `following`.

        `waits` is the cause of LAUNCHED_BEFORE where that activity was launched before the gap.
        """
        found = dict.fromkeys(CAUSES, 0)
        launch = self.launch[following]
        known = launch >= 0
        found["unknown"] = int((end - begin)[~known].sum())
        begin, end, launch, waits = begin[known], end[known], launch[known], waits[known]
        if not len(launch):
            return found
        called = self.start[launch]
        late = np.clip(called, begin, end)  # the gap up to here is the host's, the rest the launch's
        for thread in np.unique(self.thread[launch]):
            mine = self.thread[launch] == thread
            for kind, which in self.kinds.items():
                rows = np.flatnonzero(which & (self.thread == thread))
                covered = _covered(self.start[rows], self.end[rows])
                found[kind] += int((covered(late[mine]) - covered(begin[mine])).sum())
        found["host"] = int((late - begin).sum()) - found["synchronisation"] - found["copy"]
        queued = called < begin
        for number, cause in enumerate(LAUNCHED_BEFORE):
            found[cause] = int((end - late)[queued & (waits == number)].sum())
        found["launch latency"] = int((end - late)[~queued].sum())
        return found


def _waits(trace: Trace, rows: Any, begin: Any, following: Any) -> Any:
    """The cause, of LAUNCHED_BEFORE, that delayed the activities `following` the gaps from `begin`.

    `rows` are all activities of the device. The activity that ended at the start of the gap released the next
    one: by stream order on the same stream, by an event between streams. Waits for another device or for a
    host callback are not visible here.
    """
    end, stream = trace.column("activities", "end_ns"), trace.column("activities", "stream")
    process = trace.column("activities", "process")
    gap = np.minimum(np.searchsorted(begin, end[rows]), max(len(begin) - 1, 0))
    last = end[rows] == begin[gap] if len(begin) else np.zeros(len(rows), bool)
    rows, gap = rows[last], gap[last]
    after = following[gap]
    same = stream[rows] == stream[after]
    same &= (process[rows] == process[after]) | (process[rows] < 0) | (process[after] < 0)
    moved = trace.of_kind("activities", *MOVES)[rows]
    unsaid = (stream[rows] < 0) | (stream[after] < 0)
    waits = np.zeros(len(begin), np.int8)
    for number, which in enumerate((moved, same, unsaid), start=1):
        waits[gap[which]] = number
    return waits


def _covered(start: Any, end: Any) -> Any:
    """A function of time: nanoseconds covered by the intervals before it."""
    start, end = union(start, end)
    total = np.concatenate([[0], np.cumsum(end - start)])

    def before(time: Any) -> Any:
        at = np.searchsorted(start, time, "right")
        if not len(start):
            return np.zeros(len(time), np.int64)
        inside = np.minimum(time, end[np.maximum(at - 1, 0)]) - start[np.maximum(at - 1, 0)]
        return np.where(at > 0, total[np.maximum(at - 1, 0)] + inside, 0)

    return before


def launching(trace: Trace) -> dict[str, float | int | None]:
    """Launch overhead: median seconds of a call and from call to start, and queued kernels."""
    kernel = trace.of_kind("activities", "kernel")
    launch = trace.column("activities", "launch")
    graph = trace.column("activities", "graph")
    rows = np.flatnonzero(kernel & (launch >= 0) & (graph < 0))
    if not len(rows):
        return {"calls": 0, "call_s": None, "delay_s": None, "queue_depth": None, "deepest_queue": None}
    calls = launch[rows]
    begin, end = trace.column("launches", "start_ns")[calls], trace.column("launches", "end_ns")[calls]
    start = trace.column("activities", "start_ns")[rows]
    depth = np.searchsorted(np.sort(begin), begin, "right") - np.searchsorted(np.sort(start), begin, "right")
    return {
        "calls": len(rows),
        "call_s": float(np.median(end - begin)) / 1e9,
        "delay_s": float(np.median(np.maximum(start - end, 0))) / 1e9,
        "queue_depth": float(depth.mean()),
        "deepest_queue": int(depth.max()),
    }


def overlap(trace: Trace) -> dict[str, float]:
    """Seconds of communication, and those of them overlapped by computation."""
    names, code = trace.words("activities", "name"), trace.column("activities", "name")
    kernel = trace.of_kind("activities", "kernel")
    wire = np.array([known_kernel(n).kind in COMMUNICATION for n in names] or [False])[code] & kernel
    compute = kernel & ~wire
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    total = hidden = 0
    for _, _, here in trace.by_device("activities"):
        wires = union(start[here & wire], end[here & wire])
        total += length(*wires)
        hidden += common(wires, union(start[here & compute], end[here & compute]))
    return {"communication_s": total / 1e9, "overlapped_s": hidden / 1e9, "exposed_s": (total - hidden) / 1e9}


def small_grids_s(trace: Trace) -> float:
    """Seconds of kernels with fewer blocks than the device has processors: they cannot fill it."""
    source, device = trace.column("activities", "source"), trace.column("activities", "device")
    most = np.zeros(trace["activities"].num_rows, np.int64)
    for facts in trace.devices:
        if facts.processors:
            most[(source == facts.source) & (device == facts.device)] = facts.processors
    blocks = np.ones(trace["activities"].num_rows)
    for axis in "xyz":
        blocks *= trace.column("activities", f"grid_{axis}").astype(float)
    # Some ROCm versions count work items, not blocks: its grid may be too large, never too small.
    few = trace.of_kind("activities", "kernel") & (blocks > 0) & (blocks < most)
    return int(trace.spent_ns[few].sum()) / 1e9
