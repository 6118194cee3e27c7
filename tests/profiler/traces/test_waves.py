"""Waves of blocks: known on paper, and against the occupancy that Kineto itself states."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.traces.attribution import attribute
from profiler.traces.reading import read_traces
from profiler.traces.summary import show
from profiler.traces.waves import waves

H100 = {"id": 0, "name": "NVIDIA H100", "numSms": 132, "computeMajor": 9, "computeMinor": 0}
FULL = {"block": [256, 1, 1], "registers per thread": 32, "shared memory": 0}  # 8 warps: 8 blocks a processor


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, 8),
        ({"block": [1024, 1, 1]}, 2),
        ({"block": [32, 1, 1]}, 32),  # no more blocks than 32
        ({"registers per thread": 33}, 6),  # given by 256 to a warp: as 40
        ({"registers per thread": 128}, 2),
        ({"registers per thread": 129}, 1),  # as 136
        ({"shared memory": 113 << 10}, 2),  # and 1 KiB reserved: 114 of 228
        ({"shared memory": (113 << 10) + 1}, 1),
    ],
)
def test_a_grid_over_what_is_held_at_once(change: Any, held: int, made: Any, write: Any) -> None:
    made.kernel("k", 0.0, 10.0, grid=[132 * held, 1, 1], **{**FULL, **change})
    made.kernel("k", 20.0, 12.0, grid=[132 * held * 3 // 2, 1, 1], **{**FULL, **change})
    trace = read_traces([write(made.text(deviceProperties=[H100]))])
    assert waves(trace).tolist() == [1.0, 1.5]
    shown = show(attribute(trace), "kernel")
    assert shown["totals"]["last_waves_s"] == pytest.approx(12e-6 / 4)  # two waves' time for one and a half
    assert shown["rows"][0]["waves"] == 1.25


@pytest.mark.parametrize(
    "device", [{"name": "AMD Instinct MI250X"}, {"name": ""}, {"computeMajor": 99}, {"numSms": None}]
)
def test_nothing_is_claimed_of_other_devices(device: Any, made: Any, write: Any) -> None:
    made.kernel("k", 0.0, 10.0, grid=[999, 1, 1], **FULL)
    trace = read_traces([write(made.text(deviceProperties=[{**H100, **device}]))])
    assert math.isnan(waves(trace)[0])
    assert show(attribute(trace), "kernel")["totals"]["last_waves_s"] == 0


@pytest.mark.parametrize("name", ["qwen1.5-0.5b_prefill", "bert-small"])
def test_blocks_held_at_once_are_those_of_kinetos_occupancy(name: str, shared: Callable[[str], Path]) -> None:
    """Kineto states the share of warps, rounded to a percent; 0 where a kernel asks for more shared memory
    than its calculator knows of."""
    path = shared(f"traces/kineto_h100_{name}.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"), strict=False)
    stated = {}
    for event in events["traceEvents"]:
        args = event.get("args", {})
        if share := args.get("est. achieved occupancy %"):
            stated[event["name"], *args["grid"], *args["block"], args["registers per thread"]] = share
    trace = read_traces([path])
    sizes = [f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"]
    columns = [trace.column("activities", key).tolist() for key in (*sizes, "registers")]
    names, codes = trace.words("activities", "name"), trace.column("activities", "name").tolist()
    checked = 0
    for code, found, *row in zip(codes, waves(trace).tolist(), *columns, strict=True):
        if (share := stated.get((names[code], *row))) is not None:
            each = math.prod(row[:3]) / 132
            warps = min(each, each / found) * math.ceil(math.prod(row[3:6]) / 32)
            assert 100 * warps / 64 == pytest.approx(share, abs=1)
            checked += 1
    assert checked > 40
