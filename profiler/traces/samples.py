"""Summaries of samples: peak memory of allocators; clocks, power and utilisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.tables import Trace

ALLOCATED = "allocated_bytes"
MEMORY = (ALLOCATED, "reserved_bytes")  # a timeline of an allocator


def memory(trace: Trace) -> list[dict[str, Any]]:
    """A record per device (-1: the host) of each trace file whose allocations were recorded.

    `peak_allocated_bytes` is the peak of tensors, `peak_s` its time in seconds after the first reading;
    `peak_reserved_bytes` the peak held by the allocator, None where not recorded.
    """
    words, quantity = trace.words("samples", "quantity"), trace.column("samples", "quantity")
    value, time = trace.column("samples", "value"), trace.column("samples", "time_ns")
    known = [(quantity == words.index(name)) & (value >= 0) if name in words else False for name in MEMORY]
    found = []
    for source, device, here in trace.by_device("samples"):
        allocated, reserved = (np.flatnonzero(here & rows) for rows in known)
        if not len(allocated):
            continue
        highest = allocated[np.argmax(value[allocated])]
        found.append(
            {
                "source": source,
                "device": device,
                "peak_allocated_bytes": float(value[highest]),
                "peak_reserved_bytes": float(value[reserved].max()) if len(reserved) else None,
                "peak_s": int(time[highest] - time[allocated[0]]) / 1e9,
                "last_allocated_bytes": float(value[allocated[-1]]),
            }
        )
    return found


def readings(trace: Trace) -> list[dict[str, Any]]:
    """Mean, least and most of each quantity of each device, in SI units; shares are fractions."""
    quantity, value = trace.column("samples", "quantity"), trace.column("samples", "value")
    found = []
    for code, name in enumerate(trace.words("samples", "quantity")):
        if name in MEMORY:  # a timeline: its highest points are told elsewhere
            continue
        for source, device, here in trace.by_device("samples"):
            values = value[here & (quantity == code) & np.isfinite(value)]
            if not len(values):
                continue
            place = {"source": source, "device": device, "quantity": name, "count": len(values)}
            numbers = {"mean": values.mean(), "least": values.min(), "most": values.max()}
            found.append(place | {key: float(number) for key, number in numbers.items()})
    return found
