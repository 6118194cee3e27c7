"""What a profile of a GPU must keep: nearly all of its busy time explained, and hardly any time added."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.traces.reading import read_traces
from profiler.traces.totals import totals
from roofline.run import Run, open_run
from roofline.run_tables import POINT

pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.slow]
MOST_OVERHEAD = 0.03  # of an eager step
LLAMA = {  # half of Llama-3.2-1B: long enough that what stands around the layers is as little as there
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 32_000,
    "max_position_embeddings": 16_384, "pad_token_id": 0,
}  # fmt: skip
PROMPT = 8192  # of some 15 ms on an H100, of which the host needs some 6 to launch it


@pytest.fixture(scope="module")
def profiled(roofline: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A prefill and a decode step behind it."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    out = folder / "run"
    sizes = ("--prompt", PROMPT, "--output", 2, "--repeats", 16, "--no-alone")
    done = roofline("profile", folder, *sizes, "--device", "cuda", "-o", out)
    assert done.code == 0, done.err
    return open_run(out)


def traces(run: Run) -> dict[str, Path]:
    """The trace of each phase."""
    return {path.name.split("-")[1]: path for path in sorted(run.path.glob("trace-*.json.gz"))}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_kernels_in_operators_are_nearly_all_of_the_busy_time(profiled: Run, phase: str) -> None:
    """Busy time is the union of kernels, copies and sets in the raw trace: nothing of ours is in it."""
    kernels = profiled.table("kernels")
    mine = kernels[(kernels["phase"] == phase) & (kernels["operator"] != "")]
    busy_s = totals(read_traces([traces(profiled)[phase]]))["gpu_busy_s"]
    assert 0.98 <= mine["time_s"].sum() / busy_s <= 1.001


def test_ranges_cost_little_of_an_eager_step(profiled: Run) -> None:
    """By the interval of the median over pairs: what other programs add is not the ranges'."""
    assert {cost.phase for cost in profiled.head.overheads} == {"prefill", "decode"}
    for cost in profiled.head.overheads:
        assert cost.low <= MOST_OVERHEAD, cost


def test_operators_fill_the_step_that_they_are_parts_of(profiled: Run) -> None:
    """Of a prefill, in which the device never waits for the host; nor are they longer than it."""
    steps, operators = profiled.table("steps"), profiled.table("operators")
    whole = steps[~steps["instrumented"].astype(bool) & (steps["phase"] == "prefill")]["median_s"].item()
    inside = operators[(operators["where"] == "model") & (operators["phase"] == "prefill")]
    assert 0.9 <= (inside["median_s"] * inside["count"]).sum() / whole <= 1.1


def test_nothing_that_runs_beats_the_data_sheet(profiled: Run) -> None:
    """No operator is faster than its work at the device's stated peaks allows."""
    from hwspecs import load_device
    from roofline.validate import validate

    matched = validate(profiled, load_device(profiled.head.device), "datasheet").matched
    assert set(matched["phase"]) == {"prefill", "decode"}
    large = matched[matched["flops"] > 1e9]
    assert (large["measured_s"] >= 0.98 * large["bound_s"]).all(), large[[*POINT, "name", "attained"]]
