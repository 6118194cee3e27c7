"""Sums over activities that are alike: the same in any pieces, and in memory of a piece."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwspecs import load_device
from profiler.traces import alike
from profiler.traces.attribution import attribute
from profiler.traces.reading import read_traces
from profiler.traces.summary import BY, show
from profiler.traces.tables import DeviceFacts, Origin, Trace, make_table
from roofline.ceilings import Fidelity, ceilings
from tests.profiler.traces.test_attribution import BF16, graph_decode

H100 = {"id": 0, "name": "NVIDIA H100", "numSms": 132, "computeMajor": 9, "computeMinor": 0}


def test_tables_are_the_same_in_any_pieces(
    made: Any, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of three, executions lie in two."""
    graph_decode(made, layers=2)
    blocks = {"grid": [3000, 1, 1], "block": [256, 1, 1], "registers per thread": 32, "shared memory": 0}
    for at in (10, 30, 50):  # an execution of two kernels, faster than its ceiling: seen as a whole only
        made.add("cpu_op", "aten::mm", at, 9, **{"Input Dims": [[4096, 4096]] * 2, "Input type": [BF16] * 2})
        for kernel in (1, 3):
            made.kernel("nvjet", 5000 + 2 * at + 4 * kernel, kernel, launched=at + kernel, **blocks)
    trace = attribute(read_traces([write(made.text(deviceProperties=[H100]))]))
    limits = ceilings(load_device("h100"), Fidelity.DATASHEET)
    whole = {by: show(trace, by, limits) for by in BY}
    assert any(row["warning"] for row in whole["operator"]["rows"])
    assert whole["operator"]["totals"]["last_waves_s"] > 0
    monkeypatch.setattr(alike, "PIECE", 3)
    for by, expected in whole.items():
        found = show(trace, by, limits)
        for row, one in zip(found.pop("rows"), expected.pop("rows"), strict=True):
            assert row == {k: pytest.approx(v) if type(v) is float else v for k, v in one.items()}
        for key, record in expected["totals"].items():
            assert found["totals"][key] == (pytest.approx(record) if type(record) is float else record)
        assert [loss["why"] for loss in found["lost"]] == [loss["why"] for loss in expected["lost"]]


def test_memory_is_that_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 100_000
    at = np.arange(count)
    sizes = dict.fromkeys(("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "registers"), 32)
    activities = make_table(
        "activities",
        {
            "source": np.zeros(count, np.int16),
            "device": np.zeros(count, np.int32),
            "kind": ["kernel"] * count,
            "name": [f"kernel {i % 9}" for i in range(count)],
            "start_ns": 10 * at,
            "end_ns": 10 * at + 9,
            "shared_bytes": np.zeros(count, np.int32),
            **{name: np.full(count, value, np.int32) for name, value in sizes.items()},
        },
    )
    attribution = make_table("attribution", {"kind": ["gemm"] * count, "instance": at})
    facts = DeviceFacts(source=0, device=0, name="NVIDIA H100", processors=132, capability="9.0")
    tables = {"activities": activities, "attribution": attribution}
    trace = Trace((Origin(file="a", format="nsys", version=""),), tables, (facts,))
    monkeypatch.setattr(alike, "PIECE", 1 << 12)
    tracemalloc.start()
    try:
        rows = alike.alike(trace, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows["count"].sum() == count
    assert peak < 70 * count  # the times of all and of their executions; a described row takes 400 bytes
