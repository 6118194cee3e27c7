"""Totals against the definition: a nanosecond is busy if anything ran in it, counted one by one."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.traces.attribution import attribute
from profiler.traces.breakdown import breakdown
from profiler.traces.reading import read_brief, read_traces
from profiler.traces.summary import show

NAMES = ("gemm_kernel", "flash_fwd_kernel", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL")
ACTIVITY = st.fixed_dictionaries(
    {
        "sort": st.sampled_from(["kernel", "kernel", "copy", "set"]),
        "name": st.sampled_from(NAMES),
        "process": st.sampled_from([100, 200]),
        "device": st.integers(0, 2),
        "stream": st.sampled_from([7, 13]),
        "start": st.integers(-50, 300),
        "length": st.integers(0, 60),
        "called": st.integers(0, 40),  # before the start
    }
)
ACTIVITIES = st.lists(
    ACTIVITY,
    min_size=1,
    max_size=25,
    unique_by=lambda a: (
        a["sort"],
        a["device"],
        a["stream"],
        a["start"],
    ),  # what is recorded twice counts once
)
Activity = dict[str, Any]


def truth(activities: list[Activity]) -> dict[str, int]:
    """Nanoseconds of the devices, each a set of its busy moments."""
    busy: dict[int, set[int]] = defaultdict(set)
    edges: dict[int, list[int]] = defaultdict(list)
    kernels = [a for a in activities if a["sort"] == "kernel"]
    for a in activities:
        busy[a["device"]].update(range(a["start"], a["start"] + a["length"]))
        edges[a["device"]] += [a["start"], a["start"] + a["length"]]
    return {
        "kernels": len(kernels),
        "kernel_time_s": sum(a["length"] for a in kernels),
        "gpu_busy_s": sum(map(len, busy.values())),
        "gpu_span_s": sum(max(found) - min(found) for found in edges.values()),
    }


def kineto(activities: list[Activity], folder: Path) -> Path:
    """Two processes in one file whose correlation ids are the same, beside events that are no GPU time."""
    category = {"kernel": "kernel", "copy": "gpu_memcpy", "set": "gpu_memset"}
    events: list[Activity] = []
    for number, a in enumerate(activities):
        ids = {"correlation": number // 2 + 1}
        place = {"device": a["device"], "stream": a["stream"]}
        call = {"pid": a["process"], "tid": 1, "ts": (a["start"] - a["called"]) / 1000, "dur": 0.005}
        events.append({"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", **call, "args": ids})
        gpu = {"pid": a["device"], "tid": a["stream"], "ts": a["start"] / 1000, "dur": a["length"] / 1000}
        args = {**place, **ids, "number": number}
        events.append({"ph": "X", "cat": category[a["sort"]], "name": a["name"], **gpu, "args": args})
        whole = {"pid": a["device"], "tid": a["stream"], "ts": -9.0, "dur": 99.0, "args": place}
        events += [
            {"ph": "X", "cat": "gpu_user_annotation", "name": "decode", **whole},
            {"ph": "X", "cat": "cuda_sync", "name": "Stream Sync", **whole},
        ]
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def nsys(activities: list[Activity], folder: Path) -> Path:
    """The same as an export of Nsight Systems, with synchronisations that are no GPU time."""
    tables = {"kernel": "KERNEL", "copy": "MEMCPY", "set": "MEMSET"}
    path = folder / "report.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
        file.executemany("INSERT INTO StringIds VALUES (?, ?)", enumerate(NAMES))
        for table in (*tables.values(), "SYNCHRONIZATION"):
            columns = "start, end, deviceId, streamId, correlationId, globalPid, demangledName"
            typed = columns.replace(",", " INTEGER,") + " INTEGER"
            file.execute(f"CREATE TABLE CUPTI_ACTIVITY_KIND_{table} ({typed})")
        for number, a in enumerate(activities):
            end, place = a["start"] + a["length"], (a["device"], a["stream"])
            row = (a["start"], end, *place, number // 2 + 1, a["process"] << 24, NAMES.index(a["name"]))
            for table, values in ((tables[a["sort"]], row), ("SYNCHRONIZATION", (-900, 9000, *row[2:]))):
                file.execute(f"INSERT INTO CUPTI_ACTIVITY_KIND_{table} VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    file.close()
    return path


@pytest.mark.parametrize("write", [kineto, nsys])
@given(ACTIVITIES)
@settings(max_examples=40, deadline=None)
def test_every_way_of_reading_finds_every_nanosecond(write: Any, activities: list[Activity]) -> None:
    want = truth(activities)
    with tempfile.TemporaryDirectory() as folder:
        path = write(activities, Path(folder))
        full = show(attribute(read_traces([path])), "operator")
        quick = breakdown(read_brief(path), "kernel")
    for found in (full["totals"], quick["totals"]):
        assert found["kernels"] == want["kernels"]
        for name in ("kernel_time_s", "gpu_busy_s", "gpu_span_s"):
            assert found[name] == pytest.approx(want[name] / 1e9, abs=1e-13)
    assert sum(full["idle"].values()) == pytest.approx(full["totals"]["gpu_idle_s"], abs=1e-13)
