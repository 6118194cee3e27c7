"""Time by kernel, kind or stream of a recording too large to attribute interactively.

Sums over codes of names, nothing per activity: five million kernels take a second. Phases, layers and
work need launches and ranges; `roofline import` finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from profiler.traces.grouping import encoded
from profiler.traces.rules import SPARSE, known_kernel
from profiler.traces.summary import ROW
from profiler.traces.tables import Trace
from profiler.traces.totals import device_records, device_totals, loss_records, totals

LARGE = 200_000  # activities
PIECE = 1 << 20
NOTE = "phases, layers and work are omitted for so large a trace; `roofline import` finds them"


def breakdown(trace: Trace, by: str) -> dict[str, Any]:
    """The documented JSON of `show`, without fields that need attribution."""
    devices = device_totals(trace)
    noted = {"what": "noted", "count": trace["activities"].num_rows, "sentence": NOTE}
    return {
        "schema": 1,
        "by": by,
        "devices": device_records(trace, devices),
        "hardware": None,
        "totals": {**totals(trace, devices), **dict.fromkeys(("modelled_share", "unmodelled_s", "attained"))},
        "idle": {},
        "lost": [],
        "launches": {},
        "memory": [],
        "readings": [],
        "losses": [*loss_records(trace), noted],
        "unknown_kernels": [],
        "rows": rows(trace, by),
    }


def rows(trace: Trace, by: str) -> list[dict[str, Any]]:
    """A row per kernel, kind or stream, the longest first."""
    names = [(word, known_kernel(word)) for word in trace.words("activities", "name")]
    activity = trace.words("activities", "kind")
    keys = ("source", "device", "stream") if by == "stream" else ("name", "kind")
    found: dict[tuple[str, str | None, str | None], list[int]] = {}
    for key, (count, time_ns) in _summed(trace, keys).items():
        if by == "stream":
            label: Any = ("trace {}, device {}, stream {}".format(*key), None, None)
        else:  # the kind is by kernel name, or copy, set or graph
            (word, known), what = names[key[0]], activity[key[1]]
            kind = known.kind if what == "kernel" else what
            label = (word, kind, SPARSE if known.sparse else None) if by == "kernel" else (kind, kind, None)
        sums = found.setdefault(label, [0, 0])
        sums[0] += count
        sums[1] += time_ns
    whole = sum(time_ns for _, time_ns in found.values()) or 1
    records = [
        dict.fromkeys(ROW)
        | {"name": name, "kind": kind, "warning": warning, "count": count, "modelled_share": 0.0}
        | {"time_s": time_ns / 1e9, "share": time_ns / whole}
        for (name, kind, warning), (count, time_ns) in found.items()
    ]
    return sorted(records, key=lambda record: -record["time_s"])


def _summed(trace: Trace, keys: Sequence[str]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Rows and nanoseconds by the codes of some columns, in pieces."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    table = trace["activities"]
    for at in range(0, table.num_rows, PIECE):
        piece = Trace(trace.origins, {"activities": table.slice(at, PIECE)})
        known: list[tuple[int, ...]] = [()]
        codes = np.zeros(piece["activities"].num_rows, np.int64)
        for column in keys:
            places, values = encoded(piece.column("activities", column))
            codes, pairs = encoded(codes.astype(np.int64) * len(values) + places)
            known = [(*known[int(p) // len(values)], int(values[int(p) % len(values)])) for p in pairs]
        counts = np.bincount(codes, minlength=len(known))
        # The sums are exact: whole numbers below 2**53.
        times = np.bincount(codes, weights=piece.spent_ns, minlength=len(known))
        for key, count, time_ns in zip(known, counts.tolist(), times.tolist(), strict=True):
            before = found.get(key, (0, 0))
            found[key] = before[0] + count, before[1] + int(time_ns)
    return found
