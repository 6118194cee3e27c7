"""Attention and experts on two GPUs of one die, or of one kind: no slower with no less of anything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import Kernel, kernels_of, load_device
from hwspecs.calibrations import shipped_calibrations
from roofline.ceilings import Ceilings, ceilings
from roofline.optable import predict_table
from roofline.physics.base import Gpu
from roofline.physics.columns import dtypes_of
from roofline.physics.triton_tiles import SGLANG_BLOCKS, TUNED, VLLM, VLLM_8_BITS, VLLM_BLOCKS
from workloads.dtypes import compute_dtype

# With at least the clock, the processors and the data sheet's bandwidth of the second one.
NO_LESS = (("h200_sxm", "h100_sxm"), ("gh200", "h100_sxm"), ("b300_sxm", "b200_sxm"), ("gb200", "b200_sxm"))
# A B300 was measured to stream 2 % less than a B200; faster memory shifts where the overlap with it is worst.
TOLERANCE = 1.03
LAYERS = ((32.0, 8.0, 128.0), (64.0, 8.0, 128.0), (8.0, 1.0, 128.0), (16.0, 16.0, 64.0))  # heads, of KV, size
# Of Mixtral 8x22B and Llama 4 Scout, which no engine has tuned on any of these GPUs: experts, of a token,
# width, hidden. Tiles of sizes that it has are its own for each name of a GPU.
EXPERTS = ((8.0, 2.0, 16_384.0, 6144.0), (16.0, 1.0, 8192.0, 5120.0))
OPS = ("attention_decode", "attention_prefill", "attention_encoder", "mla_decode", "mla_prefill", "moe")
Cell = tuple[str, str, str, str, str]


@cache
def known() -> tuple[Kernel, ...]:
    """The kernels that were measured anywhere."""
    return tuple(k for path in shipped_calibrations().values() for k in kernels_of(load_device(path.stem)))


def cells(op: str) -> list[Cell]:
    """Formats, backends and kernels that were measured anywhere, and engines that name none."""
    named = {(op, k.dtype, k.kv_dtype, k.backend, k.kernel) for k in known() if k.op == op}
    return sorted(named | {(*cell[:4], "") for cell in named})


def multiplies(gpu: Gpu, cell: Cell) -> bool:
    """Whether a GPU has units for the format of a cell's products."""
    return compute_dtype(dtypes_of(cell[1], cell[2]).inputs) in gpu.tensor_flop_per_s


def sizes(op: str) -> Iterator[dict[str, float]]:
    """Of a chat's and a document's length, alone and in batches."""
    if op == "moe":
        for experts, topk, inter, hidden in EXPERTS:
            layer = {"num_experts": experts, "topk": topk, "inter": inter, "hidden": hidden}
            yield from (
                {**layer, "moe_tp": 1, "moe_ep": 1, "num_tokens": n} for n in (1, 16, 128, 1024, 8192)
            )
        return
    lengths = (512.0, 4096.0, 32_768.0)
    for heads, kv_heads, size in LAYERS:
        layer = {"n_heads": heads, "n_kv_heads": kv_heads, "head_dim": size, "window": 0.0}
        if op == "attention_encoder":
            layer |= {"n_kv_heads": heads, "causal": 0.0}
        for length in lengths:
            decodes = op.endswith("decode")
            for batch in (1.0, 8.0, 64.0) if decodes else (1.0, 4.0):
                yield {**layer, "batch": batch, "q_len": 1.0 if decodes else length, "kv_len": length}


def table(op: str, cell: Cell) -> pd.DataFrame:
    keys = dict(zip(("op", "dtype", "kv_dtype", "backend", "kernel"), cell, strict=True))
    rows = pd.DataFrame(list(sizes(op))).assign(**keys)
    return rows.assign(distribution="balanced") if op == "moe" else rows


@cache
def limits(name: str) -> Ceilings:
    return ceilings(load_device(name), "calibrated")


def seconds(name: str, rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    return np.asarray(predict_table(rows, limits(name))["predicted_us"], dtype=np.float64) * 1e-6


@pytest.mark.parametrize("pair", NO_LESS)
def test_the_faster_device_of_a_die_has_no_less_of_anything(pair: tuple[str, str]) -> None:
    one, other = (Gpu.of(load_device(name)) for name in pair)
    assert (one.generation, one.shared_bytes) == (other.generation, other.shared_bytes)
    assert one.processors >= other.processors
    assert one.boost_hz >= other.boost_hz
    assert one.dram_byte_per_s >= other.dram_byte_per_s
    assert one.l2_bytes >= other.l2_bytes


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("one", "other"), NO_LESS)
def test_a_die_with_faster_memory_is_no_slower(one: str, other: str, op: str) -> None:
    """Whatever the kernel and format: engines run the same kernel on both."""
    for cell in cells(op):
        if not multiplies(Gpu.of(load_device(one)), cell):
            continue
        rows = table(op, cell)
        ratio = seconds(one, rows) / seconds(other, rows)
        assert (ratio <= TOLERANCE).all(), (cell, ratio.max(), rows.iloc[int(ratio.argmax())].to_dict())


@pytest.mark.parametrize("op", ["attention_decode", "mla_decode", "moe"])
def test_what_streams_gains_by_faster_memory_on_another_die(op: str) -> None:
    """An RTX PRO 6000 has 1.85 times the bandwidth of an L40S and 1.28 times its processors' clocks.

    Of caches and weights beyond either L2, of many sequences: Ampere's latent attention does not split one.
    """
    names = ("rtx_pro_6000_server", "l40s")
    large, small = (Gpu.of(load_device(name)) for name in names)
    assert small.dram_byte_per_s < 0.55 * large.dram_byte_per_s
    processors = small.processors * small.boost_hz / (large.processors * large.boost_hz)
    floors = ceilings(load_device("l40s"), "datasheet")
    for cell in cells(op):
        if not multiplies(small, cell):
            continue
        rows = table(op, cell).assign(**({"num_tokens": 64.0} if op == "moe" else {"batch": 256.0}))
        floor_s = predict_table(rows, floors)["predicted_us"] * 1e-6
        rows = rows[floor_s * small.dram_byte_per_s > 8 * large.l2_bytes].reset_index(drop=True)
        ratio = seconds("rtx_pro_6000_server", rows) / seconds("l40s", rows)
        assert len(rows), cell
        assert (ratio < 1.07 * processors).all(), cell  # waves are not all full


@pytest.mark.parametrize("sizes_of", [TUNED, VLLM, VLLM_8_BITS, VLLM_BLOCKS, SGLANG_BLOCKS])
def test_nobody_tuned_these_experts_on_these_devices(sizes_of: Any) -> None:
    for name in {name for pair in NO_LESS for name in pair}:
        tuned = sizes_of.get(load_device(name).name, {})
        assert all(width not in tuned.get(experts, ()) for experts, _, width, _ in EXPERTS)
