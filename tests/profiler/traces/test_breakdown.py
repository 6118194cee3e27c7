"""The breakdown of large traces says what the full way says."""

from __future__ import annotations

import numpy as np
import pytest

from profiler.traces import breakdown
from profiler.traces.attribution import attribute
from profiler.traces.summary import show
from profiler.traces.tables import DeviceFacts, Origin, Trace, make_table


@pytest.fixture
def trace() -> Trace:
    random = np.random.default_rng(3)
    count = 500
    names = ["gemm_sm90", "rms_norm_kernel", "memcpy HtoD", "flash_fwd_kernel", "sparse_gemm_sp_kernel"]
    which = random.integers(0, len(names), count)
    start = np.sort(random.integers(0, 10**6, count)) + 10**15
    table = {
        "source": np.zeros(count, np.int16),
        "device": random.integers(0, 3, count).astype(np.int32),
        "stream": random.integers(7, 10, count),
        "kind": ["copy" if w == 2 else "kernel" for w in which],
        "name": [names[w] for w in which],
        "start_ns": start,
        "end_ns": start + random.integers(1, 5000, count),
    }
    origin = Origin(file="t.sqlite", format="nsys")
    return Trace(
        (origin,),
        {"activities": make_table("activities", table)},
        (DeviceFacts(source=0, device=1, name="X"),),
    )


@pytest.mark.parametrize("by", ["kernel", "kind", "stream"])
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_both_ways_agree(trace: Trace, by: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakdown, "PIECE", piece)
    quick, full = breakdown.breakdown(trace, by), show(attribute(trace), by)
    for name in ("kernels", "kernel_time_s", "gpu_busy_s", "gpu_span_s", "gpu_idle_s", "dropped_events"):
        assert quick["totals"][name] == pytest.approx(full["totals"][name])
    assert quick["devices"] == full["devices"]
    others = {row["name"]: row for row in full["rows"]}
    assert len(quick["rows"]) == len(others)
    for row in quick["rows"]:
        other = others[row["name"]]
        for key in ("count", "kind") if by != "stream" else ("count",):
            assert row[key] == other[key]
        assert (row["time_s"], row["share"]) == pytest.approx((other["time_s"], other["share"]))
        assert set(row) == set(other)
