"""`roofline diff` over runs measured here and imported ones."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from profiler.cli.diff import fraction
from profiler.comparing import side, traced
from profiler.traces import alike
from profiler.traces.tables import Origin, Trace, make_table
from roofline.run import create_run, open_run
from roofline.run_head import Head
from roofline.run_tables import POINT, TABLES
from specfiles.errors import InputError

Roofline = Callable[..., Any]


def run(path: Path, times: dict[str, float], prompt: int = 512, kernel: str = "gemm_a") -> Path:
    """A run measured here: operators of one prefill, each with one kernel."""
    fields = dict.fromkeys(
        ("created", "command", "model", "weights", "dtype", "convention", "mode", "device"), "x"
    )
    made = create_run(path, Head(**fields, phase="prefill", model_config_fields={}, environment={}, seed=0))
    point = {"phase": "prefill", "batch": 1, "q_len": prompt, "kv_len": prompt}
    rows = [
        {**point, "name": n, "kind": "gemm", "where": "model", "count": 2, "repeats": 5, "median_s": t / 2}
        for n, t in times.items()
    ]
    table = pd.DataFrame(rows).assign(q25_s=lambda d: d["median_s"], q75_s=lambda d: d["median_s"])
    made.write_table("operators", table.reindex(columns=list(TABLES["operators"])))
    kernels = [{**point, "operator": n, "name": kernel, "count": 2, "time_s": t} for n, t in times.items()]
    made.write_table("kernels", pd.DataFrame(kernels))
    return path


def trace(path: Path, *kernels: tuple[str, float]) -> Path:
    """A Kineto trace of kernels one behind the other: names and microseconds."""
    events, at = [], 0.0
    for name, us in kernels:
        place = {"cat": "kernel", "name": name, "pid": 0, "tid": 7, "args": {"device": 0, "stream": 7}}
        events.append({"ph": "X", "ts": at, "dur": us, **place})
        at += us + 1
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_a_slower_run_fails(roofline: Roofline, tmp_path: Path) -> None:
    before = run(tmp_path / "a", {"qkv": 0.5, "mlp": 0.5})
    after = run(tmp_path / "b", {"qkv": 0.5, "mlp": 0.6}, kernel="gemm_b")
    done = roofline("diff", before, after, "--fail-above", "5%", "--format", "json")
    assert done.code == 1
    data = json.loads(done.out)
    assert data["totals"]["ratio"] == pytest.approx(0.1)
    assert data["regressions"] == ["the whole: +10.0 %"]
    first = data["rows"][0]
    assert (first["name"], first["kernels_gone"], first["kernels_new"]) == ("mlp", ["gemm_a"], ["gemm_b"])
    assert roofline("diff", after, before, "--fail-above", "5%").code == 0
    assert roofline("diff", before, after, "--fail-above", "0.2").code == 0
    assert roofline("diff", before, after).code == 0


def test_other_sizes_are_other_shapes(roofline: Roofline, tmp_path: Path) -> None:
    sides = run(tmp_path / "a", {"qkv": 0.5}), run(tmp_path / "b", {"qkv": 1.0}, prompt=1024)
    data = json.loads(roofline("diff", *sides, "--format", "json").out)
    assert data["rows"][0]["shapes_new"] == ["batch 1, 1024 of 1024 tokens"]


def test_points_are_matched_by_their_sizes(roofline: Roofline, tmp_path: Path) -> None:
    """Of 512 and 1024 against 1024 and 256 tokens, then against 1024 alone."""
    long, short = (
        run(tmp_path / "long", {"qkv": 1.0}, prompt=1024),
        run(tmp_path / "c", {"qkv": 0.2}, prompt=256),
    )
    both = run(tmp_path / "both", {"qkv": 0.5})
    for whole, added in ((both, long), (short, long)):
        for name in ("operators", "kernels"):
            tables = [open_run(path).table(name) for path in (whole, added)]
            open_run(whole).write_table(name, pd.concat(tables, ignore_index=True))
    for by in ("operator", "kernel"):
        data = json.loads(roofline("diff", both, short, "--by", by, "--format", "json").out)
        assert [(row["phase"], row["change_s"]) for row in data["rows"]] == [
            ("prefill 1x512 of 512", pytest.approx(-0.3)),
            ("prefill 1x1024 of 1024", 0.0),
        ]
        data = json.loads(roofline("diff", both, long, "--by", by, "--format", "json").out)
        assert [(row["phase"], row["side"], row["change_s"]) for row in data["rows"]] == [
            ("prefill", "both", 0.0)
        ]
        assert data["notes"] == [f"prefill 1x512 of 512 was measured in {both} alone and is not compared."]


def test_runs_of_other_phases_are_refused(roofline: Roofline, tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", {"qkv": 1.0}), run(tmp_path / "b", {"qkv": 1.0})
    made = open_run(second)
    made.write_table("operators", made.table("operators").assign(phase="decode"))
    assert "have no phase in common" in roofline("diff", first, second).err


def test_traces_are_compared_as_they_are_and_imported(roofline: Roofline, tmp_path: Path) -> None:
    before = trace(tmp_path / "a.json", ("gemm_x", 100), ("rms_norm_kernel", 10))
    after = trace(tmp_path / "b.json", ("gemm_y", 80), ("rms_norm_kernel", 10), ("rms_norm_kernel", 10))
    for of in (before, after):
        assert roofline("import", of, "-o", of.with_suffix("")).code == 0
    for pair in ((before, after), (before.with_suffix(""), after.with_suffix(""))):
        data = json.loads(roofline("diff", *pair, "--by", "kernel", "--format", "json").out)
        rows = {row["name"]: row for row in data["rows"]}
        assert rows["gemm_x"]["side"] == "gone"
        assert rows["gemm_y"]["side"] == "new"
        assert (rows["rms_norm_kernel"]["count_a"], rows["rms_norm_kernel"]["count_b"]) == (1, 2)
        assert data["totals"]["change_s"] == pytest.approx(-10e-6)


def test_a_table_names_what_changed(roofline: Roofline, tmp_path: Path) -> None:
    before = trace(tmp_path / "a.json", ("gemm_x", 100))
    done = roofline("diff", before, trace(tmp_path / "b.json", ("gemm_y", 120)), "--fail-above", "10%")
    assert done.code == 1
    assert "REGRESSION" in done.out
    assert "slower than allowed" in done.err


def test_kernels_that_begin_alike_are_named_where_they_differ(roofline: Roofline, tmp_path: Path) -> None:
    begin = "void flash::flash_fwd_kernel<flash::Flash_fwd_kernel_traits<" + 40 * "long, " + "bf16, "
    sides = (run(tmp_path / end, {"core": 1.0}, kernel=f"{begin}{end}") for end in ("tile_64", "tile_128"))
    line = next(
        line for line in roofline("diff", *sides).out.splitlines() if line.startswith("core: kernels")
    )
    gone, new = line.split(" -> ")
    assert gone.endswith("bf16, tile_64")
    assert new.endswith("bf16, tile_128")
    assert len(line) < 150


def test_recorded_inputs_are_written_as_people_write_them(roofline: Roofline, tmp_path: Path) -> None:
    def recorded(path: Path, form: str, us: float) -> Path:
        dims = {"Input Dims": [[2, 128], [64, 128], []], "Input type": [form, form, "Scalar"]}
        place = {"cat": "cpu_op", "name": "aten::linear", "pid": 1, "tid": 1, "ts": 0.0, "dur": us}
        path.write_text(json.dumps({"traceEvents": [{"ph": "X", **place, "args": dims}]}))
        return path

    sides = (
        recorded(tmp_path / "a.json", "float", 9.0),
        recorded(tmp_path / "b.json", "c10::BFloat16", 5.0),
    )
    row = json.loads(roofline("diff", *sides, "--format", "json").out)["rows"][0]
    assert (row["shapes_gone"], row["shapes_new"]) == (
        ["fp32[2x128] fp32[64x128]"],
        ["bf16[2x128] bf16[64x128]"],
    )


@pytest.mark.parametrize("share", ["", "five", "-1%", "nan", "1e9"])
def test_a_share_that_is_none(share: str) -> None:
    with pytest.raises(InputError, match=r"expected a share such as 5% or 0\.05"):
        fraction(share)


def test_what_is_no_run(roofline: Roofline, tmp_path: Path) -> None:
    done = roofline("diff", tmp_path / "none", tmp_path / "none")
    assert done.code == 2
    assert "no such" in done.err


@pytest.mark.parametrize("by", ["operator", "kernel"])
def test_kernels_without_a_name_are_compared_too(by: str, roofline: Roofline, tmp_path: Path) -> None:
    for name, length in (("a.json", 5.0), ("b.json", 7.0)):
        nameless = {"ph": "X", "cat": "kernel", "pid": 0, "tid": 7, "ts": 0.0, "dur": length, "args": {}}
        named = {**nameless, "name": "gemm", "ts": 20.0}
        (tmp_path / name).write_text(json.dumps([nameless, named]))
    ended = roofline("diff", tmp_path / "a.json", tmp_path / "b.json", "--by", by, "--format", "json")
    assert ended.code == 0, ended.err
    totals = json.loads(ended.out)["totals"]
    assert (totals["time_a_s"], totals["time_b_s"]) == pytest.approx((10e-6, 14e-6))
    assert roofline("diff", tmp_path / "a.json", tmp_path / "b.json", "--by", by).code == 0


def test_both_sides_sum_to_their_steps(roofline: Roofline, tmp_path: Path) -> None:
    """What the framework does, and what is in no range, is neither side's to hide."""
    sides = [run(tmp_path / name, {"qkv": 0.5}) for name in "ab"]
    for folder, whole_s, masks_s in zip(sides, (0.8, 1.1), (0.1, 0.2), strict=True):
        made = open_run(folder)
        inside = made.table("operators")
        beside = inside.assign(name="framework.inputs", where="framework", count=1)
        beside = beside.assign(median_s=masks_s, q25_s=masks_s, q75_s=masks_s)
        made.write_table("operators", pd.concat([inside, beside, inside.assign(where="alone")]))
        point = {key: inside[key].iloc[0] for key in POINT}
        steps = [{**point, "instrumented": on, "median_s": whole_s * (1 + on)} for on in (False, True)]
        table = pd.DataFrame(steps).assign(q25_s=lambda d: d["median_s"], q75_s=lambda d: d["median_s"])
        made.write_table("steps", table.reindex(columns=list(TABLES["steps"])))
    data = json.loads(roofline("diff", *sides, "--format", "json").out)
    totals = data["totals"]
    assert (totals["time_a_s"], totals["time_b_s"]) == (pytest.approx(0.8), pytest.approx(1.1))
    rows = {row["name"]: (row["time_a_s"], row["time_b_s"]) for row in data["rows"]}
    assert rows["framework.inputs"] == (pytest.approx(0.1), pytest.approx(0.2))
    assert rows["(in no range)"] == (pytest.approx(0.2), pytest.approx(0.4))
    assert rows["qkv"] == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize("by", ["operator", "kernel"])
def test_a_trace_is_the_same_in_any_pieces(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [("gemm_x", 100), ("rms_norm_kernel", 10), ("gemm_y", 80), ("rms_norm_kernel", 12), ("copy", 3)]
    file = trace(tmp_path / "a.json", *kernels)
    whole = side(file, by)
    assert len(whole)
    monkeypatch.setattr(alike, "PIECE", 2)
    pd.testing.assert_frame_equal(side(file, by), whole)


@pytest.mark.parametrize("by", ["operator", "layer", "kernel"])
def test_memory_of_a_compared_trace_is_that_of_a_piece(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 100_000
    at = np.arange(count)
    activities = {
        "source": np.zeros(count, np.int16),
        "kind": ["kernel"] * count,
        "name": [f"kernel {i % 9}" for i in range(count)],
        "range": np.full(count, -1, np.int32),
        "start_ns": 10 * at,
        "end_ns": 10 * at + 9,
    }
    attribution = {"kind": ["gemm"] * count, "layer": (at % 4).astype(np.int32)}
    tables = {"activities": make_table("activities", activities)}
    tables["attribution"] = make_table("attribution", attribution)
    recorded = Trace((Origin(file="a", format="nsys", version=""),), tables)
    monkeypatch.setattr(alike, "PIECE", 1 << 12)
    tracemalloc.start()
    try:
        found = traced(recorded, by)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(found["layer"]) == (set(range(4)) if by == "layer" else {-1})
    assert found["count"].sum() == count
    assert found["time_s"].sum() == pytest.approx(count * 9e-9)
    assert peak < 40 * count  # the places of ranges' inputs; a described row takes 400 bytes
