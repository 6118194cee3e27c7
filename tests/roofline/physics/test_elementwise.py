"""Elementwise kernels: limits known on paper, and held-out error on public measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.physics.base import Gpu, total
from roofline.physics.columns import dtypes_of
from roofline.physics.elementwise import CONSTANTS, ElementwiseModel, turns_s
from roofline.physics.kernels import Kernels

GPU = Gpu.of(load_device("a100_sxm"))
START = {c.name: c.start for c in CONSTANTS}
KINDS = ElementwiseModel.kinds
TOKENS = 2.0 ** np.arange(21)


def parts(op: str, gpu: Gpu = GPU, kernel: str = "rms_norm", **values: float) -> dict[str, Any]:
    """By the kernel of one element a thread that was measured."""
    sizes = {"num_tokens": TOKENS, "hidden": 4096.0, "n_heads": 32.0, "n_kv_heads": 8.0, "head_dim": 128.0}
    rows: dict[str, Any] = {n: np.broadcast_to(v, TOKENS.shape) for n, v in sizes.items()}
    rows |= {"op": np.full(len(TOKENS), op, dtype=object), "kernel": np.full(len(TOKENS), kernel, object)}
    return ElementwiseModel().parts(rows, gpu, dtypes_of("float16"), {**START, **values})


@pytest.mark.parametrize("op", KINDS)
def test_more_rows_take_longer_and_no_part_is_negative(op: str) -> None:
    found = parts(op)
    assert (np.diff(total(found)) > 0).all()
    assert all((seconds >= 0).all() for seconds in found.values())


@pytest.mark.parametrize("op", KINDS)
def test_long_passes_of_wide_loads_run_near_the_share_of_the_bandwidth(op: str) -> None:
    bytes_per_token = {
        "rmsnorm": 4 * 4096,
        "rope": 4 * 40 * 128,
        "act_mul": 6 * 4096,
        "elementwise_add": 6 * 4096,
    }
    found = parts(op, kernel="today's")
    streamed = bytes_per_token[op] * TOKENS[-1] / (START["memory_share"] * GPU.dram_byte_per_s)
    assert (found["ideal"] + found["reached"])[-1] == pytest.approx(streamed, rel=0.01)
    assert found["turns"][-1] < 1e-6


@pytest.mark.parametrize("op", [op for op in KINDS if op != "elementwise_add"])
def test_turns_follow_processors_and_the_clock_and_not_the_memory(op: str) -> None:
    a100 = parts(op)["turns"][-1]
    faster = parts(op, replace(GPU, dram_byte_per_s=2 * GPU.dram_byte_per_s))["turns"][-1]
    wider = parts(op, replace(GPU, processors=2 * GPU.processors))["turns"][-1]
    assert faster == pytest.approx(a100)
    assert wider == pytest.approx(a100 / 2, rel=0.01)


def test_a_row_more_than_the_processors_hold_waits_for_a_round_of_its_own() -> None:
    """4096 elements by 1024 threads are 4 turns, twice; 108 processors hold 2 such rows each."""
    tokens = np.array([1.0, 108.0, 109.0, 216.0, 217.0])
    rows: dict[str, Any] = {"num_tokens": tokens, "hidden": np.full(5, 4096.0)}
    rows["kernel"] = np.full(5, "rms_norm", object)
    waits = {"near_s": 1e-6, "far_s": 0.0}
    found = turns_s(rows, GPU, np.ones(5), waits)
    issued = 10 * 2 * 4096 / (128 * GPU.boost_hz)
    rounds, busiest = np.array([1, 1, 1, 1, 2]), np.array([1, 1, 2, 2, 3])
    assert found == pytest.approx(8e-6 * rounds + issued * busiest)


def test_processors_of_graphics_dies_hold_one_row_of_1024_threads_where_others_hold_two() -> None:
    """1536 threads and 2048: CUDA C++ Programming Guide, technical specifications."""
    a40 = Gpu.of(load_device("a40"))
    assert (a40.resident_threads, GPU.resident_threads) == (1536, 2048)
    rows: dict[str, Any] = {"num_tokens": np.array([a40.processors, a40.processors + 1])}
    rows |= {"hidden": np.full(2, 4096.0), "kernel": np.full(2, "rms_norm", object)}
    one, two = turns_s(rows, a40, np.ones(2), {"near_s": 1e-6, "far_s": 0.0})
    assert two == pytest.approx(2 * one)


def test_loads_of_16_bytes_take_an_eighth_of_the_turns_of_those_of_2() -> None:
    sizes = {"num_tokens": np.ones(1), "hidden": np.full(1, 65_536.0)}
    waits = {"near_s": 1e-6, "far_s": 0.0}
    issued = 10 * 2 * 65_536 / (128 * GPU.boost_hz)
    narrow, wide = (
        turns_s({**sizes, "kernel": np.full(1, kernel, object)}, GPU, np.ones(1), waits)
        for kernel in ("rms_norm", "today's")
    )
    assert narrow - issued == pytest.approx(8 * wide)


def test_published_latencies_stand_for_what_nobody_measured() -> None:
    unseen = Kernels(load_device("a100_sxm"), unseen=True).choose("rmsnorm", "float16", "", "", "rms_norm")
    assert unseen is not None
    assert unseen.provenance == "published latencies, arXiv:2402.13499"
    assert unseen.values == {c.name: c.start for c in ElementwiseModel().constants(GPU, dtypes_of("float16"))}


# H100: 3.0 of 3.35 TB/s by QuACK's RMSNorm and softmax, 2.7 or more by torch.compile (its authors, 2025);
# streams of the device files reach 0.87 to 0.97 of the data sheets.
UNMEASURED = ("h100_sxm", "h200_sxm", "b200_sxm", "l40s", "rtx4090", "rtx_pro_6000_server", "mi300x")


@pytest.mark.parametrize("name", UNMEASURED)
@pytest.mark.parametrize("op", KINDS)
def test_todays_kernels_start_in_microseconds_and_stream_where_nobody_measured_them(
    name: str, op: str
) -> None:
    sizes = {"num_tokens": [1, 65_536], "hidden": 8192, "n_heads": 64, "n_kv_heads": 8, "head_dim": 128}
    table = pd.DataFrame({"op": op, "dtype": "bfloat16", **sizes})
    device = load_device(name)
    floor, found = (
        predict_table(table, ceilings(device, fidelity))["predicted_us"].to_numpy(float)
        for fidelity in ("datasheet", "calibrated")
    )
    assert 1.5 < found[0] < 6.0, (
        "an empty kernel of a replayed graph takes 2 us, a pass with one row's latency more"
    )
    assert 0.8 < floor[1] / found[1] < 0.98


def test_what_was_measured_of_narrow_loads_is_carried_to_the_same_kernel_alone() -> None:
    sizes = {"num_tokens": [65_536.0], "hidden": 8192.0, "backend": "vidur/sarathi(vllm)"}
    table = pd.DataFrame({"op": "rmsnorm", "dtype": "float16", **sizes})
    limits = ceilings(load_device("h100_sxm"), "calibrated")
    same, any_other = (
        predict_table(table.assign(kernel=kernel), limits)["predicted_us"][0]
        for kernel in ("rms_norm", "other")
    )
    assert same > 2 * any_other


@pytest.mark.parametrize(
    ("op", "most"), [("rmsnorm", 0.10), ("rope", 0.08), ("act_mul", 0.11), ("elementwise_add", 0.09)]
)
def test_held_out_widths_are_predicted(held_out_error: Any, op: str, most: float) -> None:
    cell = {"gpu": "a100_sxm", "op": op, "dtype": "float16"}
    assert held_out_error("vidur_ops", ElementwiseModel(), 200, **cell) <= most
