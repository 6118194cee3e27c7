"""The report of an imported run: everything that `show` prints, and its samples over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from profiler.traces.alike import alike
from profiler.traces.runs import load
from profiler.traces.samples import MEMORY
from profiler.traces.showing import limits_of
from profiler.traces.summary import every_grouping, show
from profiler.traces.tables import Trace
from reports.points import roofs
from reports.recording import of_recording
from reports.records import Content, Curve, Timeline
from reports.step_records import Roof
from reports.wording import moment
from roofline.ceilings import Fidelity
from workloads.dtypes import Precision

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.run import Run

MOST_TOLD = 8  # files named on a page
MOST_POINTS = 2000  # of a curve: more than a screen has columns
AXES = dict.fromkeys(MEMORY, "memory [B]") | {"power_w": "power [W]", "sm_clock_hz": "clock [Hz]"}


def recorded_content(run: Run, device: Device | None) -> Content:
    """An imported run, with the data sheet of its device if known."""
    trace, ceilings = load(run), limits_of(device, Fidelity.DATASHEET)
    rows = alike(trace, ceilings)
    files = [origin.file for origin in trace.origins]
    origins = [f"{o.file} ({o.format}{' ' + o.version if o.version else ''})" for o in trace.origins]
    more = [f"{len(origins) - MOST_TOLD} more"] if len(origins) > MOST_TOLD else []
    facts = [
        ("Traces", ", ".join([*origins[:MOST_TOLD], *more])),
        ("Device", device.name if device else run.head.device or "not known"),
        ("Imported", moment(run.head.created)),
        ("Model", run.head.model or "not named"),
    ]
    remarks = (
        [] if device else ["No file describes the device: times stand without ceilings; name it with --hw."]
    )
    return of_recording(
        f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}",
        facts,
        show(trace, "operator", ceilings, rows),
        every_grouping(rows),
        list(timelines(trace)),
        _roofs(rows, device),
        remarks,
    )


def _roofs(rows: pd.DataFrame, device: Device | None) -> tuple[Roof, ...]:
    """The peaks of the format in which most of the modelled time was spent."""
    spent = rows.groupby("dtype")["time_s"].sum()
    if device is None or spent.empty:
        return ()
    main = str(spent.idxmax())
    return roofs(device, Precision.of(main, main, main))


def timelines(trace: Trace) -> Iterator[Timeline]:
    """A timeline per sampled quantity, with a curve per device; allocated and reserved memory share one."""
    words, quantity = trace.words("samples", "quantity"), trace.column("samples", "quantity")
    groups: dict[str, list[str]] = {}
    for name in words:
        groups.setdefault("memory" if name in MEMORY else name, []).append(name)
    for title, names in groups.items():
        curves = [curve for name in names for curve in _curves(trace, quantity == words.index(name), name)]
        if curves:
            yield Timeline(title.replace("_", " "), AXES.get(names[0], title), tuple(curves))


def _curves(trace: Trace, which: object, name: str) -> Iterator[Curve]:
    time, value = trace.column("samples", "time_ns"), trace.column("samples", "value")
    first = int(time.min()) if len(time) else 0
    for _, device, here in trace.by_device("samples"):
        rows = np.flatnonzero(which & here & np.isfinite(value))
        if len(rows):
            rows = _highest(rows, value)
            where = f"device {device}" if device >= 0 else "host"
            seconds = tuple(((time[rows] - first) / 1e9).tolist())
            yield f"{name.rpartition('_')[0] or name}, {where}", seconds, tuple(value[rows].tolist())


def _highest(rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS rows: the highest of each part."""
    if len(rows) <= MOST_POINTS:
        return rows
    parts = np.array_split(rows, MOST_POINTS)
    return np.array([part[np.argmax(value[part])] for part in parts])
