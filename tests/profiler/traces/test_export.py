"""Exports: what is written is what was measured, and what was predicted stands above it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from profiler.traces.export import export, side_by_side
from profiler.traces.reading import read_trace
from profiler.traces.tables import Origin, Trace, make_table
from profiler.traces.totals import totals
from roofline.ceilings import ceilings
from specfiles.errors import InputError

COPY_BYTES = 3.35e9  # a millisecond of an H100's memory


@pytest.fixture
def trace() -> Trace:
    """Two kernels and a copy; the first kernel is launched from a range and moves COPY_BYTES."""
    whole = {
        "activities": {
            "source": [0, 0, 0],
            "device": [0, 0, 0],
            "stream": [7, 7, 9],
            "kind": ["kernel", "kernel", "copy"],
            "name": ["gemm", "<b>norm</b>", "memcpy HtoD"],
            "start_ns": [10**15 + 1, 10**15 + 5_000_004, 10**15 + 6_000_000],
            "end_ns": [10**15 + 4_000_003, 10**15 + 5_500_004, 10**15 + 6_000_001],
            "launch": [0, -1, -1],
            "bytes": [-1, -1, 64],
        },
        "launches": {"source": [0], "process": [3], "thread": [4], "name": ["cudaLaunchKernel"]}
        | {"start_ns": [10**15], "end_ns": [10**15 + 1]},
        "ranges": {"source": [0], "process": [3], "thread": [4], "name": ["layers.mlp"], "kind": ["nvtx"]}
        | {"start_ns": [10**15 - 1], "end_ns": [10**15 + 9]},
        "attribution": {
            "operator": ["layers.mlp", None, None],
            "kind": ["gemm", "rmsnorm", "copy"],
            "instance": [0, 1, 2],
            "how": ["shapes", None, None],
            "dtype": ["bf16", None, None],
            "matrix_flops": [1.0, 0.0, 0.0],
            "vector_flops": [0.0] * 3,
            "special_ops": [0.0] * 3,
            "work_bytes": [COPY_BYTES, 0.0, 0.0],
            "comm_bytes": [0.0] * 3,
        },
    }
    tables = {name: make_table(name, columns) for name, columns in whole.items()}
    return Trace((Origin(file="t.sqlite", format="nsys"),), tables)


@pytest.fixture
def h100() -> Any:
    from hwspecs import load_device

    return ceilings(load_device("h100_sxm"))


def slices(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [event for event in json.loads(text)["traceEvents"] if event["ph"] == "X"]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_timeline_reads_back_as_what_was_measured(
    trace: Trace, h100: Any, tmp_path: Path, name: str
) -> None:
    export(trace, tmp_path / name, h100)
    again = read_trace(tmp_path / name)
    assert {k: v for k, v in totals(again).items() if k != "unattributed_s"} == pytest.approx(
        {k: v for k, v in totals(trace).items() if k != "unattributed_s"}, rel=1e-12
    )
    assert again["activities"]["name"].to_pylist() == trace["activities"]["name"].to_pylist()
    assert again["activities"]["launch"].to_pylist() == [0, -1, -1]


def test_predictions_stand_above_and_begin_with_what_they_predict(
    trace: Trace, h100: Any, tmp_path: Path
) -> None:
    export(trace, tmp_path / "a.json", h100)
    found = slices(tmp_path / "a.json")
    (predicted,) = [event for event in found if event["cat"] == "predicted"]
    (measured,) = [event for event in found if event["name"] == "gemm"]
    assert predicted["ts"] == measured["ts"]
    assert predicted["dur"] == pytest.approx(1000)  # microseconds: bytes over bandwidth
    assert predicted["pid"] < measured["pid"]
    assert Counter(event["cat"] for event in found) == {
        "kernel": 2,
        "gpu_memcpy": 1,
        "predicted": 1,
        "nvtx": 1,
        "cuda_runtime": 1,
    }


def test_samples_are_curves(trace: Trace, tmp_path: Path) -> None:
    begin = int(trace.column("activities", "start_ns").min())
    held = {"time_ns": [begin, begin + 2000], "quantity": ["allocated_bytes"] * 2, "value": [5.0, 7.0]}
    more = {"source": [0, 0], "device": trace.column("activities", "device")[:1].tolist() * 2}
    export(trace.with_table("samples", make_table("samples", held | more)), tmp_path / "a.json", None)
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    curve = [event for event in events if event["ph"] == "C"]
    assert [event["args"]["value"] for event in curve] == [5, 7]
    assert curve[1]["ts"] - curve[0]["ts"] == pytest.approx(2)
    (kernel,) = [event for event in events if event["name"] == "gemm"]
    assert {event["pid"] for event in curve} == {kernel["pid"]}


def test_without_a_device_nothing_is_predicted(trace: Trace, tmp_path: Path) -> None:
    export(trace, tmp_path / "a.json", None)
    assert all(event["cat"] != "predicted" for event in slices(tmp_path / "a.json"))


def test_a_table_for_pandas(trace: Trace, h100: Any, tmp_path: Path) -> None:
    export(trace, tmp_path / "a.parquet", h100)
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table["end_ns"].sub(table["start_ns"]).tolist() == [4_000_002, 500_000, 1]
    assert table["bound_s"].tolist()[0] == pytest.approx(1e-3)
    assert table["trace"].tolist() == ["t.sqlite"] * 3
    assert not table["above_ceiling"].any()


def test_an_unknown_ending_writes_nothing(trace: Trace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown ending"):
        export(trace, tmp_path / "a.txt", None)
    assert not list(tmp_path.iterdir())


def test_a_measured_step_stands_beside_its_prediction() -> None:
    point = {"phase": "decode", "batch": 1, "q_len": 1, "kv_len": 9, "encoder_len": 0}
    rows = [
        {
            **point,
            "name": "qkv",
            "count": 2,
            "predicted_s": 1e-6,
            "measured_s": 3e-6,
            "bound": "memory",
            "attained": 0.3,
        },
        {
            **point,
            "name": "mlp",
            "count": 1,
            "predicted_s": 5e-6,
            "measured_s": 4e-6,
            "bound": "memory",
            "attained": 1.2,
        },
    ]
    found = [event for event in side_by_side(pd.DataFrame(rows)) if event["ph"] == "X"]
    times = {(event["name"], event["cat"]): (event["ts"], event["dur"]) for event in found}
    assert times == {
        ("qkv", "predicted"): (0, 2),
        ("qkv", "operator"): (0, 6),
        ("mlp", "predicted"): (6, 5),
        ("mlp", "operator"): (6, 4),
    }


def test_the_command(
    write: Callable[..., Path], made: Any, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    made.kernel("gemm", 10.5, 2.25, launched=1.0)
    path = write(made.text())
    assert roofline("export", path, "-o", tmp_path / "b.json").code == 0
    assert [e["dur"] for e in slices(tmp_path / "b.json") if e["cat"] == "kernel"] == [2.25]
    assert roofline("export", path, "-o", tmp_path / "b.xlsx").code == 2
    assert roofline("import", path, "-o", tmp_path / "run").code == 0
    refused = roofline("export", tmp_path / "run", "-o", tmp_path / "run" / "activities.parquet")
    assert (refused.code, "is read by this command" in refused.err) == (2, True)
