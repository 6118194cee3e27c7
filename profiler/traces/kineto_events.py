"""One event of a Chrome trace: its fields under all their names, and its interpretation."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import msgspec
import numpy as np

from profiler.traces.columns import BAD, NONE, integer, integers, nanoseconds

Number = int | float | str | None
Raw = msgspec.Raw | msgspec.UnsetType
NAMES = {
    "correlation_old": "correlation_id",
    "external": "External id",
    "external_old": "external id",
    "registers": "registers per thread",
    "shared": "shared memory",
    "graph_node": "graph node id",
    "graph": "graph id",
    "dims": "Input Dims",
    "types": "Input type",
    "values": "Concrete Inputs",
    "dims_old": "Input dims",
    "types_old": "Input types",
    "allocated": "Total Allocated",
    "reserved": "Total Reserved",
    "memory_device": "Device Id",
    "memory_type": "Device Type",
    "task": "Task Type",
    "collective": "Collective name",
    "sent": "In msg nelems",
    "received": "Out msg nelems",
    "group_size": "Group size",
}


class Arguments(msgspec.Struct, gc=False, rename=NAMES):
    """The fields of an event's `args` used here."""

    external: Number = None
    external_old: Number = None
    device: Number = None
    stream: Number = None
    correlation: Number = None
    correlation_old: Number = None
    grid: Any = None
    block: Any = None
    registers: Number = None
    shared: Number = None
    bytes: Number = None
    graph_node: Number = None
    graph: Number = None
    kernel: str | None = None
    dims: Raw = msgspec.UNSET
    types: Raw = msgspec.UNSET
    values: Raw = msgspec.UNSET
    dims_old: Raw = msgspec.UNSET
    types_old: Raw = msgspec.UNSET
    allocated: Number = None
    reserved: Number = None
    memory_device: Number = None
    memory_type: Number = None
    name: Any = None  # of a process or thread
    task: Any = None
    collective: Any = None
    sent: Number = None
    received: Number = None
    group_size: Number = None
    dtype: Any = None


class Event(msgspec.Struct, gc=False):
    """One Chrome event."""

    ph: str | None = None
    cat: str | None = None
    name: str | int | float | None = None
    pid: Number = None
    tid: Number = None
    ts: Number = None
    dur: Number = None
    id: str | int | float | None = None  # of a flow
    args: Arguments | None = None


class ExactEvent(Event, gc=False):
    """The same with raw `ts`, whose digits a float would lose."""

    ts: Raw = msgspec.UNSET  # type: ignore[assignment]


class BriefArguments(msgspec.Struct, gc=False, rename=NAMES):
    """The fields for a breakdown by kernel."""

    device: Number = None
    stream: Number = None
    correlation: Number = None
    correlation_old: Number = None
    bytes: Number = None
    name: Any = None
    task: Any = None


class BriefEvent(Event, gc=False):
    """An event without shapes."""

    args: BriefArguments | None = None  # type: ignore[assignment]


class BriefExactEvent(ExactEvent, gc=False):
    """The same with raw `ts`."""

    args: BriefArguments | None = None  # type: ignore[assignment]


EMPTY = Arguments()
# c10d's names of collectives and of types (`toString` of ScalarType), as `record_param_comms` writes them.
PATTERNS = {
    "allreduce": "allreduce",
    "all_reduce": "allreduce",
    "allgather": "allgather",
    "all_gather": "allgather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall",
    "alltoall": "alltoall",
    "send": "sendrecv",
    "recv": "sendrecv",
}
ELEMENT_BYTES = {
    **dict.fromkeys(("Byte", "Char", "Bool", "Float8_e4m3fn", "Float8_e5m2", "Float8_e4m3fnuz"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Double", "Long"), 8),
}


def sort_of(event: Any) -> str:
    """The category of an event without one; "" where unknown."""
    name, args = str(event.name), event.args
    if moved := moves(name):
        return moved
    if args is None:
        return ""
    if args.stream is not None or getattr(args, "grid", None) is not None:
        return "kernel"
    if name.startswith(("cuda", "cu", "hip")) and correlation(args) is not None:
        return "runtime"
    return "operator" if "::" in name else ""


def moves(name: str) -> str:
    """The category of a copy or set by its name; "" for other names."""
    found = re.match(r"Mem(cpy|set)([ DHP]|$)", name)
    return {"cpy": "copy", "set": "set"}[found.group(1)] if found else ""


def correlation(args: Any) -> Number:
    """The id shared by a call and its activity."""
    found: Number = args.correlation if args.correlation is not None else args.correlation_old
    return found


def external(args: Any) -> Number:
    """The id shared by an operator and the activities that it launches."""
    found: Number = args.external if args.external is not None else args.external_old
    return found


class Pairs:
    """Pairs begins (`B`) with ends (`E`), which match the latest open begin of their thread."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.ends = 0  # ends without a begin
        self._open: dict[tuple[Any, Any], list[Event]] = defaultdict(list)

    def joined(self, events: list[Any]) -> list[Any]:
        """The events, with pairs as complete ones in order of their ends."""
        if not {event.ph for event in events} & {"B", "E"}:
            return events
        found = []
        for event in events:
            if event.ph == "B":
                self._open[event.pid, event.tid].append(event)
            elif event.ph != "E":
                found.append(event)
            elif self._open[event.pid, event.tid]:
                found.append(self._closed(self._open[event.pid, event.tid].pop(), event.ts))
            else:
                self.ends += 1
        return found

    def left(self, last_ns: int | None) -> list[Any]:
        """Begins without an end, lasting until `last_ns`; without a duration if that is None."""
        last: Any = None
        if last_ns is not None:
            last = msgspec.Raw(f"{last_ns}e-3".encode()) if self.exact else last_ns / 1000
        found = [self._closed(event, last) for events in self._open.values() for event in events]
        self._open.clear()
        return found

    def _closed(self, begun: Any, end: Any) -> Any:
        """A begin and its end as one complete event."""
        start = nanoseconds([begun.ts], exact=self.exact)[0]
        stop = nanoseconds([end], exact=self.exact)[0]
        duration = None if BAD in (start, stop) else max(0, int(stop - start)) / 1000
        return msgspec.structs.replace(begun, ph="X", dur=duration)


def sizes(what: str, values: list[Any]) -> dict[str, Any]:
    """Grid or block, given as a list of three; "[1, 2, 3]" and lists of strings occur."""
    triples = [v if isinstance(v, list) and len(v) == 3 else (NONE, NONE, NONE) for v in values]
    try:
        found = np.array(triples, dtype=np.int64).reshape(len(triples), 3)
    except (TypeError, ValueError, OverflowError):
        found = np.stack([integers([t[i] for t in triples]) for i in range(3)], axis=1)
    found = found.clip(NONE, 2**31 - 1).astype(np.int32)
    return {f"{what}_{axis}": found[:, i] for i, axis in enumerate("xyz")}


def small(values: list[Any]) -> Any:
    """32-bit integers, clipped to their range."""
    return integers(values).clip(NONE, 2**31 - 1).astype(np.int32)


def message(args: Any) -> str | None:
    """The collective of a `record_param_comms`, as a described operator; None if unclear."""
    name = str(args.collective)
    pattern = next((found for word, found in PATTERNS.items() if word in name), None)
    size = ELEMENT_BYTES.get(str(args.dtype))
    devices, *elements = (integer(value) for value in (args.group_size, args.sent, args.received))
    if pattern is None or size is None or devices < 1 or min(elements) < 0:
        return None
    # Kineto's sent and received sizes are those of one device: the larger is the whole tensor.
    told = {
        "kind": "collective",
        "pattern": pattern,
        "message_bytes": size * max(elements),
        "devices": devices,
    }
    return msgspec.json.encode(told).decode()


def shapes_of(args: Any) -> str | None:
    """Inputs of an operator as one JSON text, as recorded."""
    if args.collective is not None:
        return message(args)
    dims = args.dims if args.dims is not msgspec.UNSET else args.dims_old
    if dims is msgspec.UNSET:
        return None
    types = args.types if args.types is not msgspec.UNSET else args.types_old
    parts = [b'{"dims":', bytes(dims)]
    if types is not msgspec.UNSET:
        parts += [b',"types":', bytes(types)]
    if args.values is not msgspec.UNSET:
        parts += [b',"values":', bytes(args.values)]
    text = b"".join([*parts, b"}"])
    if b"\n" in text:  # printed over several lines
        text = msgspec.json.format(text, indent=-1)
    return text.decode("utf-8", "replace")
