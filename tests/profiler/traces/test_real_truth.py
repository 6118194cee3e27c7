"""Every device of every shared trace has the times of the intervals in the file, read here by other means."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from profiler.traces.attribution import attribute
from profiler.traces.reading import read_brief, read_traces
from profiler.traces.totals import DeviceTotals, device_totals

KINETO = ("kernel", "gpu_memcpy", "gpu_memset")
TABLES = ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE")
Found = dict[int, list[tuple[bool, int, int]]]  # by device: whether a kernel, and its nanoseconds


def of_kineto(path: Path) -> Found:
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    found: Found = defaultdict(list)
    for event in json.loads(text, strict=False, parse_float=Decimal)["traceEvents"]:
        if event.get("ph") == "X" and str(event.get("cat")).lower() in KINETO:
            start, length = (int(Decimal(event[key]) * 1000) for key in ("ts", "dur"))
            device = int(event["args"].get("device", event["pid"]))
            found[device].append((event["cat"].lower() == "kernel", start, start + length))
    return found


def of_nsys(path: Path) -> Found:
    found: Found = defaultdict(list)
    with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as file:
        known = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
        for table in TABLES:
            if f"CUPTI_ACTIVITY_KIND_{table}" in known:
                rows = file.execute(f"SELECT deviceId, start, end FROM CUPTI_ACTIVITY_KIND_{table}")
                for device, start, end in rows:
                    found[device].append((table == "KERNEL", start, end))
    file.close()
    return found


def covered(intervals: list[tuple[int, int]]) -> int:
    """By counting how many are open between one edge and the next."""
    edges = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    total = opened = last = 0
    for at, change in edges:
        total += (at - last) * (opened > 0)
        opened, last = opened + change, at
    return total


def files() -> Iterator[Any]:
    shared = Path(__file__).resolve().parents[4] / "shared" / "traces"
    for path in sorted(shared.glob("kineto_*.json.gz")) + sorted(shared.glob("kineto_*/*.json.gz")):
        yield pytest.param(path, of_kineto, id=path.name)
    for path in sorted(shared.glob("nsys_*.sqlite")):
        yield pytest.param(path, of_nsys, id=path.name)


@pytest.mark.parametrize(("path", "truth"), list(files()))
def test_each_device_has_the_times_of_its_intervals(path: Path, truth: Callable[[Path], Found]) -> None:
    want = truth(path)
    ways = (attribute(read_traces([path])), read_brief(path))
    for trace in ways:
        found: dict[int, DeviceTotals] = {each.device: each for each in device_totals(trace)}
        assert set(found) == set(want)
        for device, intervals in want.items():
            kernels = [(start, end) for kernel, start, end in intervals if kernel]
            both = [(start, end) for _, start, end in intervals]
            span = max(end for _, end in both) - min(start for start, _ in both)
            spent = sum(end - start for start, end in kernels)
            total = found[device]
            assert total.kernels == len(kernels)
            assert total.kernel_time_s == pytest.approx(spent / 1e9, rel=1e-6)
            assert total.gpu_busy_s == pytest.approx(covered(both) / 1e9, rel=1e-6)
            assert total.gpu_span_s == pytest.approx(span / 1e9, rel=1e-6)
            assert total.gpu_idle_s == pytest.approx((span - covered(both)) / 1e9, rel=1e-6, abs=1e-9)
