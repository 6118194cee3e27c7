"""Summaries of samples: peak memory of allocators; clocks, power and utilisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.grouping import encoded
from profiler.traces.tables import Trace

ALLOCATED, RESERVED = "allocated_bytes", "reserved_bytes"
HOST = -1


def memory(trace: Trace) -> list[dict[str, Any]]:
    """A record per device (-1: the host) of each trace file whose allocations were recorded.

    `peak_allocated_bytes` is the peak of tensors, `peak_s` its time in seconds after the first reading;
    `peak_reserved_bytes` the peak held by the allocator, None where not recorded.
    """
    words, quantity = trace.words("samples", "quantity"), trace.column("samples", "quantity")
    value, time = trace.column("samples", "value"), trace.column("samples", "time_ns")
    rows: dict[str, Any] = {
        name: np.flatnonzero((quantity == words.index(name)) & (value >= 0)) if name in words else []
        for name in (ALLOCATED, RESERVED)
    }
    source, device = (trace.column("samples", key).astype(np.int64) for key in ("source", "device"))
    place, places = encoded(source << 32 | (device & 0xFFFFFFFF))
    found = []
    for at in np.argsort(places).tolist():  # the host comes last
        allocated, reserved = ([row for row in rows[name] if place[row] == at] for name in rows)
        if not allocated:
            continue
        highest = max(allocated, key=lambda row: value[row])
        found.append(
            {
                "source": int(source[highest]),
                "device": int(device[highest]),
                "peak_allocated_bytes": float(value[highest]),
                "peak_reserved_bytes": float(max(value[reserved])) if reserved else None,
                "peak_s": int(time[highest] - time[allocated[0]]) / 1e9,
                "last_allocated_bytes": float(value[allocated[-1]]),
            }
        )
    return found


def readings(trace: Trace) -> list[dict[str, Any]]:
    """Mean, least and most of each quantity of each device, in SI units; shares are fractions."""
    quantity, value = trace.column("samples", "quantity"), trace.column("samples", "value")
    source, device = trace.column("samples", "source"), trace.column("samples", "device")
    found = []
    for code, name in enumerate(trace.words("samples", "quantity")):
        rows = np.flatnonzero((quantity == code) & np.isfinite(value))
        if name in (ALLOCATED, RESERVED):  # a timeline: its highest points are told elsewhere
            continue
        for s, d in sorted(set(zip(source[rows].tolist(), device[rows].tolist(), strict=True))):
            values = value[rows][(source[rows] == s) & (device[rows] == d)]
            place = {"source": s, "device": d, "quantity": name, "count": len(values)}
            numbers = {"mean": values.mean(), "least": values.min(), "most": values.max()}
            found.append(place | {key: float(number) for key, number in numbers.items()})
    return found
