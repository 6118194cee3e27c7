"""Traces of a machine without a GPU: operators of the host, each moment once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.traces.attribution import attribute
from profiler.traces.host import hosted
from profiler.traces.reading import read_traces
from profiler.traces.summary import show
from profiler.traces.tables import Origin, Trace, make_table

Write = Callable[..., Path]
FLOAT = {"Input type": ["float", "float"]}


def test_host_time_is_what_torch_calls_self_time(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 64))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad(), torch.profiler.profile(activities=activities, record_shapes=True) as recorded:
        for _ in range(3):
            with torch.profiler.record_function("decode step"):
                torch.softmax(layers(torch.ones(16, 64)), -1)
    path = tmp_path / "trace.json"
    recorded.export_chrome_trace(str(path))
    shown = show(attribute(read_traces([path])), "operator")
    own_us = sum(e.self_cpu_time_total for e in recorded.key_averages() if e.key.startswith("aten::"))
    assert shown["totals"]["host_time_s"] * 1e6 == pytest.approx(own_us, rel=1e-3)
    assert shown["totals"]["kernels"] == shown["totals"]["gpu_busy_s"] == 0
    rows = {row["name"]: row for row in shown["rows"]}
    products = 3 * 2 * 2 * 16 * 64 * 128  # steps, layers; bias is added on the way
    assert rows["aten::linear"]["flops"] == pytest.approx(products, rel=0.01)
    assert rows["aten::linear"]["count"] == 6
    assert {row["phase"] for row in rows.values()} == {"decode"}


def test_work_of_nested_operators_counts_once(made: Any, write: Write) -> None:
    made.add("cpu_op", "model::forward", 0.0, 100.0)
    made.add("cpu_op", "aten::linear", 10.0, 50.0, **FLOAT, **{"Input Dims": [[4, 8], [16, 8]]})
    made.add("cpu_op", "aten::mm", 20.0, 30.0, **FLOAT, **{"Input Dims": [[4, 8], [8, 16]]})
    trace = attribute(read_traces([write(made.text())]))
    rows = {row["name"]: row for row in show(trace, "operator")["rows"]}
    assert rows["aten::linear"]["flops"] == 2 * 4 * 8 * 16
    assert rows["aten::linear"]["time_s"] == pytest.approx(50e-6)
    assert rows["model::forward"]["time_s"] == pytest.approx(50e-6)  # before and after
    assert "aten::mm" not in rows


def test_nvtx_ranges_of_a_program_without_a_gpu_are_its_operators() -> None:
    """A step of 90 ns around an operator of 40 ns whose sizes its range states."""
    product = '{"kind":"gemm","m":4,"n":16,"k":8,"inputs":"fp32"}'
    columns = {"source": [0, 0], "process": [1, 1], "thread": [1, 1], "kind": ["nvtx", "nvtx"]}
    columns |= {"name": ["decode 4x1 of 9", "layers.mlp.up_proj"], "shapes": [None, product]}
    columns |= {"start_ns": [0, 20], "end_ns": [90, 60], "parent": [-1, 0]}
    trace = hosted(Trace((Origin(file="t", format="nsys"),), {"ranges": make_table("ranges", columns)}))
    shown = show(attribute(trace), "operator")
    (row,) = (row for row in shown["rows"] if row["name"] == "layers.mlp.up_proj")
    assert (row["kind"], row["phase"], row["count"]) == ("gemm", "decode", 1)
    assert row["flops"] == 2 * 4 * 16 * 8
    assert row["time_s"] == pytest.approx(40e-9)
    assert shown["totals"]["host_time_s"] == pytest.approx(90e-9)


@st.composite
def nested(draw: Any) -> list[tuple[int, int, int]]:
    """Ranges (thread, start, end) that lie inside each other or apart."""
    found: list[tuple[int, int, int]] = []

    def fill(thread: int, low: int, high: int, depth: int) -> None:
        at = low
        while at < high and depth < 4 and draw(st.booleans()):
            begin = draw(st.integers(at, high - 1))
            end = draw(st.integers(begin + 1, high))
            found.append((thread, begin, end))
            fill(thread, begin, end, depth + 1)
            at = end

    for thread in (1, 2):
        fill(thread, 0, 60, 0)
    return found


@given(nested(), st.integers(0, 4))
def test_every_moment_of_a_thread_is_counted_once(ranges: list[tuple[int, int, int]], known: int) -> None:
    names = ["aten::mm" if at % 5 < known else "mystery" for at in range(len(ranges))]
    thread, start, end = ([r[i] for r in ranges] for i in range(3))
    columns = {"source": [0] * len(ranges), "process": [1] * len(ranges), "kind": ["operator"] * len(ranges)}
    columns |= {"thread": thread, "start_ns": start, "end_ns": end, "name": names}
    table = make_table("ranges", columns) if ranges else make_table("ranges", {})
    trace = hosted(Trace((Origin(file="t", format="kineto"),), {"ranges": table}))
    moments = [
        (row["stream"], moment)
        for row in trace["activities"].to_pylist()
        for moment in range(row["start_ns"], row["end_ns"])
    ]
    assert len(moments) == len(set(moments))
    assert set(moments) == {(t, moment) for t, a, b in ranges for moment in range(a, b)}
