"""What was sampled beside the kernels: clocks, power, how busy parts of the device were."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.memory import ALLOCATED, RESERVED
from profiler.traces.tables import Trace


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
