"""Export a run: a Chrome trace with predicted above measured tracks, or one flat Parquet table."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from profiler.traces.alike import frame, instances_s, limits
from profiler.traces.columns import NONE
from profiler.traces.tables import Trace
from roofline.run_tables import POINT
from specfiles.errors import InputError
from specfiles.writing import atomic

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.ceilings import Ceilings, Fidelity
    from roofline.run import Run

ENDINGS = (".json", ".json.gz", ".parquet")
CATEGORY = {"host": "cpu_op", "copy": "gpu_memcpy", "set": "gpu_memset"}  # others: kernel
RANGE_CATEGORY = {"operator": "cpu_op", "module": "python_function", "nvtx": "nvtx"}  # Kineto's names
WORK = ("matrix_flops", "vector_flops", "work_bytes")
Event = dict[str, Any]


def export(trace: Trace, path: Path, ceilings: Ceilings | None) -> None:
    """Write an attributed trace; the ending decides the format. Raises InputError for another ending."""
    _check_ending(path)
    rows = limits(frame(trace), ceilings, instances_s(trace))
    _write(path, lambda: flat(trace, rows), events(trace, rows))


def export_measured(run: Run, path: Path, device: Device, fidelity: Fidelity) -> None:
    """Export a measured run against its prediction: operators of one step per point, or their table."""
    from roofline.validate import validate

    _check_ending(path)
    matched = validate(run, device, fidelity).matched
    _write(path, lambda: matched, side_by_side(matched))


def _check_ending(path: Path) -> None:
    if not path.name.endswith(ENDINGS):
        raise InputError(f"{path}: unknown ending; expected {', '.join(ENDINGS)} (Chrome trace or table).")


def _write(path: Path, table: Callable[[], pd.DataFrame], found: Iterable[Event]) -> None:
    """Write the table or the events, by the file's ending."""
    with atomic(path) as draft:
        if path.name.endswith(".parquet"):
            table().to_parquet(draft, index=False)
        else:
            write_events(draft, found, packed=path.name.endswith(".gz"))


def side_by_side(matched: pd.DataFrame) -> Iterator[Event]:
    """Consecutive operators, each starting at the same time in both tracks of its point."""
    table = matched.rename(columns={"count": "count_"})  # a row of itertuples has a count of its own
    for at, (point, rows) in enumerate(table.groupby(POINT, sort=False)):
        label = "{} {}x{} of {}".format(*point) + (f", {point[-1]} of an encoder" if point[-1] else "")
        yield from _named(2 * at, f"{label}: predicted", 2 * at)
        yield from _named(2 * at + 1, f"{label}: measured", 2 * at + 1)
        begin = 0
        for row in rows.itertuples():
            lengths = [round(each * row.count_ * 1e9) for each in (row.predicted_s, row.measured_s)]
            args = {"count": int(row.count_), "bound": row.bound, "attained": row.attained}
            for track, length in enumerate(lengths):
                yield _slice(
                    "predicted" if not track else "operator", row.name, 2 * at + track, 0, begin, length, args
                )
            begin += max(lengths)


def flat(trace: Trace, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per activity: times, attribution, work and bound at the ceilings."""
    times = {name: trace.column("activities", name) for name in ("start_ns", "end_ns", "process", "bytes")}
    files = [origin.file for origin in trace.origins]
    kept = rows.drop(columns=["graph"]).assign(**times, trace=[files[s] for s in rows["source"]])
    return kept.rename(columns={"above": "above_ceiling"})


def events(trace: Trace, rows: pd.DataFrame) -> Iterator[Event]:
    """Chrome events: devices first, each with predicted above measured tracks, then the host."""
    zero = _zero(trace)
    places = list(dict.fromkeys(zip(rows["source"], rows["device"], strict=True)))
    numbers = {place: 2 * at for at, place in enumerate(places)}
    names = {(d.source, d.device): d.name for d in trace.devices}
    predicted, host = rows["bound_s"].notna().any(), (rows["activity"] == "host").any()
    for (source, device), number in numbers.items():
        label = f"device {device} {names.get((source, device), '')}".strip() if not host else "host"
        label += f" of {trace.origins[source].file}" if len(trace.origins) > 1 else ""
        yield from _named(number + 1, f"{label}: measured", 2 * number + 1)
        if predicted:
            yield from _named(number, f"{label}: at its ceilings", 2 * number)
    yield from _measured(trace, rows, numbers, zero)
    yield from _counters(trace, numbers, zero)
    if predicted:
        yield from _predicted(trace, rows, numbers, zero)
    yield from _host(trace, 2 * len(places), zero)


def write_events(path: Path, found: Iterable[Event], *, packed: bool) -> None:
    """Stream events to a file, holding at most a few thousand at once."""
    encoder = msgspec.json.Encoder()
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("wb"))
        if packed:
            file = stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        file.write(b'{"displayTimeUnit": "ns", "traceEvents": [\n')
        for at, event in enumerate(found):
            file.write((b",\n" if at else b"") + encoder.encode(event))
        file.write(b"\n]}\n")


def _measured(trace: Trace, rows: pd.DataFrame, numbers: dict[Any, int], zero: int) -> Iterator[Event]:
    launch, bytes_ = trace.column("activities", "launch"), trace.column("activities", "bytes")
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    known = ["operator", "kind", "phase", "layer", "how", "bound", *WORK]
    said = zip(*(rows[name].astype(object) for name in known), strict=True)
    columns = (rows["source"], rows["device"], rows["stream"], rows["activity"], rows["kernel"], said)
    for at, (source, device, stream, activity, kernel, values) in enumerate(zip(*columns, strict=True)):
        about = {k: v for k, v in zip(known, values, strict=True) if v is not None and v == v and v != NONE}
        if "how" not in about:
            about = {k: v for k, v in about.items() if k not in WORK}
        args = {"device": int(device), "stream": int(stream), **about}
        if launch[at] >= 0:
            args["correlation"] = int(launch[at]) + 1
        if bytes_[at] >= 0:
            args["bytes"] = int(bytes_[at])
        yield _slice(
            CATEGORY.get(activity, "kernel"),
            kernel,
            numbers[source, device] + 1,
            int(stream),
            int(start[at]) - zero,
            int(end[at] - start[at]),
            args,
        )


def _counters(trace: Trace, numbers: dict[Any, int], zero: int) -> Iterator[Event]:
    """Samples (memory, clocks, power) as counter tracks beside the kernels of their device."""
    words = trace.words("samples", "quantity")
    names = ("source", "device", "time_ns", "quantity", "value")
    for row in zip(*(trace.column("samples", name).tolist() for name in names), strict=True):
        source, device, time, quantity, value = row
        name = words[quantity] + (" of the host" if device < 0 else "")
        place = {"pid": numbers.get((source, device), 0) + 1, "tid": 0, "ts": (time - zero) / 1000}
        if math.isfinite(value):
            yield {"ph": "C", "name": name, **place, "args": {"value": value}}


def _predicted(trace: Trace, rows: pd.DataFrame, numbers: dict[Any, int], zero: int) -> Iterator[Event]:
    """Each modelled execution at its start, with its time at the ceilings."""
    start = trace.column("activities", "start_ns")
    first = rows.assign(start=start).groupby("instance")["start"].transform("min").to_numpy()
    some = rows.assign(start=first)[rows["bound_s"].to_numpy() > 0]
    label = some["operator"].astype(object).where(some["operator"].notna(), some["kernel"].astype(object))
    for row in some.assign(label=label).itertuples():
        begin, length = int(row.start) - zero, round(row.bound_s * 1e9)
        number = numbers[row.source, row.device]
        yield _slice("predicted", row.label, number, int(row.stream), begin, length, {"bound": row.bound})


def _host(trace: Trace, number: int, zero: int) -> Iterator[Event]:
    """Ranges and runtime calls by process and thread, with flows from calls to activities."""
    places: dict[tuple[int, int], int] = {}
    for table in ("ranges", "launches"):
        source, process, thread, start, end = (
            trace.column(table, name).tolist()
            for name in ("source", "process", "thread", "start_ns", "end_ns")
        )
        words, codes = trace.words(table, "name"), trace.column(table, "name").tolist()
        kinds = [*trace.words("ranges", "kind"), ""]
        kind = trace.column("ranges", "kind").tolist() if table == "ranges" else []
        for at in range(len(start)):
            place = source[at], process[at]
            if place not in places:
                places[place] = number + len(places)
                yield from _named(places[place], f"process {process[at]}", 1_000_000 + len(places))
            category = RANGE_CATEGORY.get(kinds[kind[at]], "user_annotation") if kind else "cuda_runtime"
            args = {} if kind else {"correlation": at + 1}
            name = words[codes[at]] if codes[at] >= 0 else ""
            yield _slice(
                category, name, places[place], thread[at], start[at] - zero, end[at] - start[at], args
            )


def _zero(trace: Trace) -> int:
    """The earliest time, subtracted because viewers store times as floats, exact to nanoseconds near zero."""
    tables = {"activities": "start_ns", "launches": "start_ns", "ranges": "start_ns", "samples": "time_ns"}
    found = [trace.column(name, time) for name, time in tables.items() if trace[name].num_rows]
    return min((int(times.min()) for times in found), default=0)


def _named(process: int, name: str, order: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": order}}


def _slice(
    category: str, name: str, process: int, thread: int, start_ns: int, length_ns: int, args: dict[str, Any]
) -> Event:
    times = {"ts": start_ns / 1000, "dur": length_ns / 1000}  # exact to the nanosecond for 100 days
    return {"ph": "X", "cat": category, "name": name, "pid": process, "tid": thread, **times, "args": args}
