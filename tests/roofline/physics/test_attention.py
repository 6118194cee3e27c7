"""Attention kernels: limits known on paper, and what every time keeps to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import kernels_of, load_device
from roofline.physics import model_of
from roofline.physics.attention import (
    APPEND_S,
    NO_WINDOW,
    OVERLAP,
    START_S,
    Shape,
    missed,
    row_s,
    scheduled,
)
from roofline.physics.base import SHARED_BYTES_PER_CLOCK, WARP_FLOP_PER_CLOCK, Dtypes, Gpu, total
from roofline.physics.calibration import cells
from roofline.physics.fit import mape
from roofline.physics.prefill import IN_TURN, SYNC, emulated, takes_turns, vector_instructions
from roofline.physics.prompt_tiles import keys_per_tile, tiling_of
from tests.roofline.physics.conftest import held_out_s
from workloads.operators import Attention

GPUS = {name: Gpu.of(load_device(name)) for name in ("a100_sxm", "h100_sxm", "b200_sxm")}
BF16 = Dtypes("bfloat16", "bf16", "bf16", "bf16", "bf16")
FP8_CACHE = Dtypes("bfloat16", "bf16", "bf16", "bf16", "fp8")
KINDS = ("attention_prefill", "attention_decode", "attention_encoder", "mla_prefill", "mla_decode")
NO_LATENCY = {"block_s": 1e-9, "tile_share": 20.0, "sharpness": 20.0}
KERNELS = (
    *("", "fa3", "torch_flow", "vllm_flash_attn", "triton", "flash_attention", "trtllm_mha"),
    *("vllm_triton_attn", "vllm_flashinfer"),
)


def rows(**sizes: Any) -> Mapping[str, Any]:
    """Columns of one or more rows; a Llama-3-8B layer where nothing else is said."""
    default = {"batch": 1, "q_len": 1, "kv_len": 1024, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    merged = {**default, "window": 0, "causal": 1, **sizes}
    names = {name: merged.pop(name) for name in ("kernel", "backend", "version") if name in merged}
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=float)) for v in merged.values()))
    columns = dict(zip(merged, arrays, strict=True))
    return {**columns, **{n: np.full(len(arrays[0]), v, dtype=object) for n, v in names.items()}}


def parts(
    kind: str, gpu: Gpu | str = "h100_sxm", dtype: Dtypes = BF16, change: Any = None, **sizes: Any
) -> Mapping[str, np.ndarray[Any, Any]]:
    """Parts of the time by the constants' starting values."""
    model, device = model_of(kind), gpu if isinstance(gpu, Gpu) else GPUS[gpu]
    constants = {c.name: c.start for c in model.constants(device, dtype)}
    return model.parts(rows(**sizes), device, dtype, {**constants, **(change or {})})


def time_s(
    kind: str, gpu: Gpu | str = "h100_sxm", dtype: Dtypes = BF16, change: Any = None, **sizes: Any
) -> np.ndarray[Any, Any]:
    return total(parts(kind, gpu, dtype, change, **sizes))


SIZES = {
    "batch": st.integers(1, 512),
    "q_len": st.integers(1, 9000),
    "before": st.integers(0, 9000),
    "n_kv_heads": st.sampled_from([1, 2, 4, 8]),
    "group": st.sampled_from([1, 3, 8, 64]),
    "head_dim": st.sampled_from([64, 128, 192, 256]),
    "window": st.sampled_from([0, 128, 4096]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gpu", list(GPUS))
@given(st.fixed_dictionaries(SIZES), st.sampled_from(KERNELS), st.sampled_from([BF16, FP8_CACHE]))
def test_parts_are_never_negative_and_begin_with_the_roofline(
    kind: str, gpu: str, sizes: dict[str, int], kernel: str, dtype: Dtypes
) -> None:
    before, group = sizes.pop("before"), sizes.pop("group")
    sizes["q_len"] = 1 if kind.endswith("decode") else sizes["q_len"]
    sizes |= {"kv_len": sizes["q_len"] + before, "n_heads": sizes["n_kv_heads"] * group}
    found = parts(kind, gpu, dtype, kernel=kernel, causal=kind != "attention_encoder", **sizes)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in found.values())
    if sizes["window"] or kind.startswith("mla"):
        return
    named = (sizes[name] for name in ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim"))
    work, device = Attention(*named, "bf16", dtype.kv, causal=kind != "attention_encoder").work(), GPUS[gpu]
    roof_s = max(work.flops / device.peak("bf16"), work.bytes / device.dram_byte_per_s)
    assert found["ideal"][0] <= roof_s * (1 + 1e-9)
    if work.bytes > 4 * device.l2_bytes:  # else a warm L2 may beat the memory
        assert found["ideal"][0] == pytest.approx(roof_s, rel=0.01)


def test_the_last_tile_of_a_window_does_not_end_before_the_others() -> None:
    """Half a step of keys is added to all tiles of a window, and the longest one has whole steps."""
    sizes = {"batch": 9, "q_len": 1024, "kv_len": 1024, "n_heads": 8, "n_kv_heads": 2, "head_dim": 96}
    change = {"order": 1.0, "tail": 0.0, "solo_share": 1.0}
    found = parts("attention_prefill", change=change, kernel="fa3", window=80, **sizes)
    assert found["waves"][0] == 0 < found["reached"][0]


def test_one_query_over_endless_keys_runs_at_the_memory_s_bandwidth() -> None:
    gpu, share = GPUS["h100_sxm"], {**NO_LATENCY, "dram_share": 1.0}
    sizes = {"batch": 64, "kv_len": 1_000_000}
    cache = 64 * 1e6 * 8 * 2 * 128 * 2
    found = time_s("attention_decode", change=share, **sizes)[0]
    assert found == pytest.approx(cache / gpu.dram_byte_per_s, rel=0.02)


def test_half_the_cache_s_bytes_take_half_the_time_in_the_limit() -> None:
    sizes = {"batch": 64, "kv_len": 1_000_000}
    whole, half = (
        time_s("attention_decode", dtype=d, change=NO_LATENCY, **sizes)[0] for d in (BF16, FP8_CACHE)
    )
    assert whole / half == pytest.approx(2, rel=0.03)


def test_a_long_causal_prompt_takes_half_of_the_full_square() -> None:
    sizes = {"q_len": 131_072, "kv_len": 131_072}
    causal = time_s("attention_prefill", **sizes, causal=1)[0]
    full = time_s("attention_encoder", **sizes, causal=0)[0]
    assert full / causal == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("kind", ["attention_prefill", "attention_decode"])
def test_a_window_that_holds_all_is_no_window(kind: str) -> None:
    q_len = 1 if kind == "attention_decode" else 2048
    sizes = {"q_len": q_len, "kv_len": 2048}
    assert time_s(kind, **sizes, window=2048 + q_len) == pytest.approx(time_s(kind, **sizes, window=0))
    assert time_s(kind, **sizes, window=128)[0] <= time_s(kind, **sizes, window=0)[0]


def test_time_grows_by_a_wave_where_heads_outnumber_processors() -> None:
    gpu = GPUS["h100_sxm"]
    heads = np.array([gpu.processors, gpu.processors + 1, 2 * gpu.processors, 2 * gpu.processors + 1])
    sizes = {"n_heads": heads, "n_kv_heads": heads, "kv_len": 64}
    time = time_s("attention_decode", change={"most_splits": 4.0}, **sizes)
    steps = np.diff(time)
    assert steps[0] > 10 * steps[1] >= 0
    assert steps[2] == pytest.approx(steps[0], rel=0.02)


@pytest.mark.parametrize(
    ("gpu", "kernel", "dtype", "heads", "sizes", "grouped"),
    [  # where blocks of 128 keys fill a quarter of the processors: 27 of 108, 33 of 132
        ("a100_sxm", "torch_flow", BF16, 16, {"kv_len": 128 * 27 - 1}, False),
        ("a100_sxm", "torch_flow", BF16, 16, {"kv_len": 128 * 27}, True),
        ("h100_sxm", "torch_flow", BF16, 16, {"kv_len": 128 * 33 - 1}, False),
        ("h100_sxm", "torch_flow", BF16, 16, {"kv_len": 128 * 33}, True),
        ("h100_sxm", "torch_flow", BF16, 1, {"kv_len": 128 * 33}, False),  # nothing to group
        ("h100_sxm", "torch_flow", FP8_CACHE, 16, {"kv_len": 16}, True),  # always
        ("b200_sxm", "torch_flow", BF16, 32, {"kv_len": 4096, "batch": 16}, True),
        ("b200_sxm", "torch_flow", BF16, 64, {"kv_len": 4096, "batch": 16}, False),  # more than a block's
        ("b200_sxm", "trtllm_mha", BF16, 64, {"kv_len": 4096, "batch": 16}, True),
    ],
)
def test_tensorrt_llm_groups_heads_that_share_a_kv_head(
    gpu: str, kernel: str, dtype: Dtypes, heads: int, sizes: dict[str, int], grouped: bool
) -> None:
    launches = {"launch_s": 1e-6, "plain_launch_s": 5e-5}
    found = time_s(
        "attention_decode", gpu, dtype, launches, n_heads=heads, n_kv_heads=1, kernel=kernel, **sizes
    )
    assert (found[0] < 5e-5) == grouped


def test_sglang_launches_more_around_heads_of_192_elements() -> None:
    change = {"padding_s": 1e-5, "wide_share": 1.0}
    for kind, q_len in (("attention_decode", 1), ("attention_prefill", 16)):
        sizes = {"q_len": q_len, "kv_len": 16, "head_dim": np.array([128.0, 192.0]), "change": change}
        power, other = time_s(kind, **sizes, kernel="fa3")
        assert other - power == pytest.approx(1e-5, abs=3e-6)
        power, other = time_s(kind, **sizes, kernel="vllm_flash_attn_fa3")
        assert other - power < 3e-6


@pytest.mark.parametrize("kind", ["attention_prefill", "attention_decode"])
def test_rows_of_some_versions_of_vllm_hold_no_append(kind: str) -> None:
    sizes = {"kernel": "vllm_triton_attn", "batch": 64, "q_len": 64 if "pre" in kind else 1, "kv_len": 64}
    before, without, again = (time_s(kind, version=v, **sizes)[0] for v in ("0.14.0", "0.22.0", "0.24.0"))
    assert before == again == time_s(kind, **sizes)[0]
    assert again - without == pytest.approx(APPEND_S, rel=1e-6) if kind.endswith("decode") else True
    assert again - without >= APPEND_S * (1 - 1e-6)
    encoder = {"kernel": "vllm_vit_flash_attn_fa3", "q_len": 64, "kv_len": 64, "causal": 0}
    for other, of in ((kind, {**sizes, "kernel": "fa3"}), ("attention_encoder", encoder)):
        assert time_s(other, version="0.22.0", **of) == time_s(other, **of)


@pytest.mark.parametrize(("kernel", "count"), [("fa3", 2), ("trtllm_mha", 3), ("vllm_flash_attn_fa3", 0)])
def test_sglang_converts_what_it_appends_in_kernels_of_their_own(kernel: str, count: int) -> None:
    sizes = {"kernel": kernel, "batch": 1, "kv_len": 1}
    narrow, wide = (time_s("attention_decode", dtype=d, **sizes)[0] for d in (FP8_CACHE, BF16))
    assert narrow - wide == pytest.approx(count * START_S, abs=1e-6)  # tiles and steps of its loop differ


@pytest.mark.parametrize(("batch", "starts"), [(1, 1), (992, 1), (993, 0)])
def test_a_kernel_before_flash_attention_3_prepares_what_it_can_sort(batch: int, starts: int) -> None:
    """vLLM's as many as 32 warps of 31 sequences; SGLang's any number; FlashAttention 2 none."""
    shape, hopper = Shape.of(rows(batch=batch)), GPUS["h100_sxm"]
    assert scheduled(shape, "vllm_flash_attn_fa3", hopper)[0] == starts
    assert scheduled(shape, "fa3", hopper)[0] == 1
    assert scheduled(shape, "vllm_flash_attn", GPUS["a100_sxm"])[0] == 0
    sizes = {"q_len": 64, "kv_len": 64, "batch": batch, "causal": 0}
    change = {"sequence_s": 0.0}
    one, other = (
        time_s("attention_encoder", change=change, kernel=kernel, **sizes)[0]
        for kernel in ("vllm_vit_flash_attn_fa3", "vllm_vit_flash_attn_fa4")
    )
    assert one > other or starts == 0


def test_flash_attention_4_takes_a_part_of_the_exponentials_off_units_that_are_slow() -> None:
    """3 of 16 on B200; on B300, whose units are twice as fast, none."""
    kernel = "flash_attention_v4"
    assert emulated(kernel, GPUS["b200_sxm"]) == 3 / 16
    assert emulated(kernel, Gpu.of(load_device("b300_sxm"))) == 0
    assert emulated("flash_attention_v3", GPUS["b200_sxm"]) == 0
    sizes = {"q_len": 65_536, "kv_len": 65_536, "batch": 8, "head_dim": 64, "causal": 0}
    fast = {"tensor_share": 1.2, "sustained": 0.0}  # 64 elements: exponentials bind
    whole, part = (
        time_s("attention_encoder", "b200_sxm", change=fast, kernel=name, **sizes)[0]
        for name in ("vllm_vit_flash_attn_fa3", kernel)
    )
    assert 0.8 < part / whole < 1


@pytest.mark.parametrize(("name", "least", "most"), [("a100_sxm", 0.72, 0.74), ("rtx5090", 0.87, 0.92)])
def test_a_warp_that_waits_for_its_products_loses_less_where_these_take_longer(
    name: str, least: float, most: float
) -> None:
    """FlashAttention 2 reaches 0.73 of an A100 (arXiv:2307.08691) and 0.89 to 0.91 of an RTX 5090."""
    gpu, shape = Gpu.of(load_device(name)), Shape.of(rows())
    found = row_s(shape, gpu, gpu.peak("bf16"), *(c.start for c in SYNC), overlap=1.0)
    assert least < (shape.flop_per_pair / (gpu.peak("bf16") / gpu.processors) / found)[0] < most


def test_a_warp_group_that_waits_for_its_products_on_hopper_reaches_what_was_published() -> None:
    """FlashAttention 3 without overlap in a warp group: 582 of 661 TFLOP/s (arXiv:2407.08608, table 2)."""
    gpu, shape = GPUS["h100_sxm"], Shape.of(rows())
    constants = {c.name: c.start for c in model_of("attention_prefill").constants(gpu, BF16)}
    instructions = vector_instructions(shape, tiling_of("fa3", gpu, BF16, 128.0), gpu)
    both, turns = (
        row_s(
            shape,
            gpu,
            gpu.peak("bf16"),
            constants["tensor_share"],
            constants["softmax_share"],
            overlap,
            instructions=instructions,
        )[0]
        for overlap in (OVERLAP, IN_TURN)
    )
    assert both / turns == pytest.approx(582 / 661, rel=0.03)
    assert [takes_turns(k, gpu) for k in ("torch_flow", "fa3")] == [True, False]
    assert not takes_turns("torch_flow", GPUS["b200_sxm"])  # trtllm-gen's warps each have one task


def test_heads_without_a_kernel_on_blackwell_are_multiplied_by_single_warps() -> None:
    """72 elements, padded to 128: never faster than mma.sync, and several times slower than those of 80."""
    gpu, sizes = GPUS["b200_sxm"], {"n_heads": 16, "n_kv_heads": 16, "causal": 0, "kernel": "torch_flow"}
    sizes |= {"batch": 4, "q_len": 16_384, "kv_len": 16_384}
    without, usual = (time_s("attention_encoder", "b200_sxm", head_dim=d, **sizes)[0] for d in (72, 80))
    products_s = 4 * 16 * 16_384**2 * 4 * 128 / (WARP_FLOP_PER_CLOCK * gpu.processors * gpu.clock_hz)
    assert products_s < without < 4 * products_s
    assert 3 < without / usual < 6
    assert time_s("attention_encoder", "b200_sxm", head_dim=72, **{**sizes, "kernel": ""})[0] < without / 2


def test_exponentials_twice_as_fast_leave_what_their_warps_issue_besides() -> None:
    """On B300 10 cycles become 6; a Hopper's warps rescale results, Blackwell's have others for that."""
    shape, one = Shape.of(rows()), GPUS["b200_sxm"]
    other = replace(one, special_op_per_s=2 * one.special_op_per_s)
    tiling = tiling_of("trtllm_mha", one, BF16)
    instructions = vector_instructions(shape, tiling, one)
    assert instructions == 2
    whole, half = (row_s(shape, g, 1e30, 1.0, 1.0, instructions=instructions)[0] for g in (one, other))
    assert whole / half == pytest.approx(10 / 6, rel=0.03)
    hopper = GPUS["h100_sxm"]
    assert vector_instructions(shape, tiling_of("torch_flow", hopper, BF16), hopper) == 4.5


def test_flash_attention_3_on_ampere_walks_64_keys_a_step_and_128_rows() -> None:
    """Its unsplit kernel with four warps (hopper/tile_size.h): time grows by the step."""
    sizes = {"kernel": "flash_attention", "batch": 1, "n_heads": 4, "n_kv_heads": 4}
    small = [time_s("attention_decode", "a100_sxm", kv_len=n, **sizes)[0] for n in (1, 64, 128, 192)]
    assert small[0] == pytest.approx(small[1], rel=1e-3)
    assert small[2] - small[1] == pytest.approx(small[3] - small[2], rel=1e-3)
    gpu, share = GPUS["a100_sxm"], 0.75  # TILE_SHARE's start
    products = 128 * 64 * 4 * 128 / (gpu.peak("bf16") / gpu.processors * share)
    exponentials = 128 * 64 / (gpu.special_op_per_s / gpu.processors * share)
    assert small[2] - small[1] > products + exponentials  # a warp waits for its products


def test_flashinfer_widens_a_narrow_cache_by_six_instructions_an_element() -> None:
    """Two or three shuffles and 13 others for four elements."""
    gpu, sizes = GPUS["b200_sxm"], {"kernel": "flashinfer", "n_heads": 8, "n_kv_heads": 1}
    change = {"sharpness": 20.0, "block_s": 1e-6}
    wide, narrow = (
        np.diff(time_s("attention_decode", "b200_sxm", d, change, kv_len=[65_536, 131_072], **sizes))[0]
        for d in (BF16, FP8_CACHE)
    )
    elements = 65_536 * 2 * 128 / gpu.processors
    assert narrow - wide == pytest.approx(
        6 * elements / (gpu.vector_flop_per_s / gpu.processors / 2), rel=0.05
    )


def test_flashinfer_s_own_kernel_lends_no_share_of_a_peak() -> None:
    """It multiplies by mma.sync and in 16 bits; between its own formats the share is known."""
    model, values = model_of("attention_decode"), {"tile_share": 0.3, "launch_s": 6e-6}
    own, other = ((name, FP8_CACHE) for name in ("flashinfer", "fa3"))
    assert model.borrowed(values, own, other) == {"launch_s": 6e-6}
    assert model.borrowed(values, own, own) == model.borrowed(values, other, own) == values


def test_an_ampere_without_fp8_units_multiplies_a_narrow_cache_in_16_bits() -> None:
    """FlashInfer's own kernels, too, where there are such units; on Blackwell it runs trtllm-gen's."""
    sizes = {"kernel": "vllm_flashinfer", "q_len": 16_384, "kv_len": 16_384}
    ada = Gpu.of(load_device("l40s"))
    narrow, wide = (time_s("attention_prefill", ada, d, **sizes)[0] for d in (FP8_CACHE, BF16))
    assert narrow == pytest.approx(wide, rel=0.03)
    narrow, wide = (time_s("attention_prefill", "b200_sxm", d, **sizes)[0] for d in (FP8_CACHE, BF16))
    assert narrow < 0.9 * wide


@pytest.mark.parametrize(("kernel", "narrowed"), [("trtllm_mha", 64 + 2 * 8), ("flashinfer", 2 * 8)])
def test_sglang_narrows_keys_values_and_trtllm_gen_s_queries_before_it_appends(
    kernel: str, narrowed: int
) -> None:
    sizes = {"kernel": kernel, "q_len": 8192, "kv_len": 8192, "n_heads": 64}
    still = {"token_s": 0.0, "l2_fill": 1e-9, "dram_share": 1.0, "pack_share": 1.0}
    narrow, wide = (
        parts("attention_prefill", "b200_sxm", d, still, **sizes)["append"][0]
        * GPUS["b200_sxm"].dram_byte_per_s
        for d in (FP8_CACHE, BF16)
    )
    elements = 8192 * 128
    assert wide == pytest.approx(elements * 2 * 8 * (2 + 2))
    assert narrow == pytest.approx(elements * (narrowed * (2 + 1) + 2 * 8 * (1 + 1)))


def test_tensorrt_loads_a_key_and_a_value_for_each_query_that_it_rotates() -> None:
    """And sines and cosines, past the ports to the L2: heads of queries cost more than those of keys."""
    sizes = {"kernel": "torch_flow", "q_len": 4096, "kv_len": 4096}
    heads = {"n_heads": np.array([8.0, 64.0, 64.0]), "n_kv_heads": np.array([8.0, 8.0, 64.0])}
    still = {"token_s": 0.0, "rotate_share": 1.0, "l2_share": 0.1}
    few, queries, both = parts("attention_prefill", change=still, **sizes, **heads)["append"]
    port = 4096 * 128 / GPUS["h100_sxm"].l2_byte_per_s
    assert queries - few == pytest.approx(56 * port * (2 + 2 + 2 + 4 + 2))
    assert both - queries == pytest.approx(2 * 56 * port * 2)


def test_before_hopper_splits_are_added_up_by_a_kernel_with_a_start_of_its_own() -> None:
    sizes = {"batch": 1, "n_heads": 8, "n_kv_heads": 1, "kv_len": 65_536}
    still = {"combine_s": 0.0, "split_s": 0.0, "plain_combine_s": 0.0}

    def combined(gpu: str, kernel: str) -> float:
        return float(parts("attention_decode", gpu, change=still, kernel=kernel, **sizes)["combine"][0])

    for kernel in ("vllm_flash_attn", "flash_attention", "flashinfer"):
        assert combined("a100_sxm", kernel) == START_S
    assert combined("a100_sxm", "torch_flow") == combined("h100_sxm", "vllm_flash_attn_fa3") == 0.0


@pytest.mark.parametrize(
    ("kernel", "name", "tiles"),
    [  # rows and keys by the elements of a head
        ("torch_flow", "a100_sxm", {72: (64, 32), 128: (64, 32)}),
        ("torch_flow", "h100_sxm", {64: (128, 256), 128: (128, 128)}),
        ("torch_flow", "b200_sxm", {72: (64, 32), 80: (256, 128), 128: (256, 128)}),  # 72: Ampere's kernel
        ("trtllm_mha", "b200_sxm", {128: (256, 128)}),
        ("triton", "a100_sxm", {128: (128, 128), 256: (64, 64), 512: (32, 64)}),
        ("triton", "h100_sxm", {128: (128, 64), 256: (128, 64), 512: (32, 64)}),
        ("triton", "l40s", {128: (64, 128), 256: (64, 64), 512: (32, 32)}),
        ("triton", "rtx_pro_6000_server", {128: (64, 128)}),
    ],
)
def test_kernels_have_the_tiles_of_their_generation(
    kernel: str, name: str, tiles: dict[int, tuple[float, float]]
) -> None:
    for dim, tile in tiles.items():
        found = tiling_of(kernel, Gpu.of(load_device(name)), BF16, np.array([float(dim)]))
        assert (float(np.ravel(found.rows)[0]), float(np.ravel(found.keys)[0])) == tile


def test_flash_attention_3_has_the_tiles_of_its_source_on_hopper() -> None:
    """hopper/tile_size.h: 192 rows up to heads of 96, more keys without a mask, fewer of a cache in pages."""

    def tiles(kernel: str, dtype: Dtypes = BF16) -> list[tuple[float, float]]:
        found = tiling_of(kernel, GPUS["h100_sxm"], dtype, np.array([64.0, 72.0, 80.0, 128.0, 256.0]))
        assert found.packed == (kernel == "fa3")  # sequences of a cache put their heads together
        return list(zip(found.rows.tolist(), found.keys.tolist(), strict=True))

    whole = [(192, 192), (192, 144), (192, 144), (128, 176), (128, 80)]
    assert tiles("flash_attention_v3") == tiles("vllm_vit_flash_attn_fa3") == whole
    assert tiles("fa3") == [(192, 128), (192, 128), (192, 128), (128, 128), (128, 80)]
    assert [keys for _, keys in tiles("fa3", FP8_CACHE)] == [160, 128, 128, 160, 128]


def test_a_triton_block_of_keys_from_memory_takes_longer_than_one_from_the_l2() -> None:
    sizes = {"kernel": "triton", "n_heads": 4, "n_kv_heads": 1, "batch": 1}
    near, far = (
        time_s("attention_decode", change={"far": far}, kv_len=np.array([16_384, 1_048_576]), **sizes)
        for far in (0.0, 1.0)
    )
    assert near[0] == far[0]  # 17 MB stay in an H100's L2
    assert 1.3 < far[1] / near[1] <= 2.0


def test_vllm_schedules_a_batch_that_its_kernel_cannot_sort_without_a_cost_per_sequence() -> None:
    batch = np.array([992.0, 993.0])
    sizes = {"batch": batch, "kv_len": 16, "change": {"sequence_s": 1e-7}}
    sorted_, beyond = time_s("attention_decode", **sizes, kernel="vllm_flash_attn_fa3")
    assert sorted_ - beyond == pytest.approx(992 * 1e-7, rel=0.05)
    some, more = time_s("attention_decode", **sizes, kernel="fa3")
    assert more > some


def test_flash_attention_3_splits_the_keys_of_a_prompt_that_leaves_processors_idle() -> None:
    sizes = {"n_heads": 1, "n_kv_heads": 1, "q_len": 2048, "kv_len": 2048, "change": {"combine_s": 1e-6}}
    whole, parts = (time_s("attention_prefill", **sizes, kernel=k)[0] for k in ("", "vllm_flash_attn_fa3"))
    assert parts < whole - 1e-6
    full = {**sizes, "batch": 64}
    whole, parts = (time_s("attention_prefill", **full, kernel=k)[0] for k in ("", "vllm_flash_attn_fa3"))
    assert parts == pytest.approx(whole, rel=0.02)


def test_each_tile_of_a_window_costs_the_masking_of_its_edges() -> None:
    def both(window: int) -> list[float]:
        sizes = {"q_len": 8192, "kv_len": 8192, "n_heads": 8, "window": window}
        near = {"sharpness": 20.0, "l2_fill": 1.0, "l2_share": 1.0}
        changes = [{**near, "window_s": t} for t in (1e-8, 1e-6)]
        return [time_s("attention_prefill", **sizes, change=change)[0] for change in changes]

    free, costly = both(128)
    waves = 8 * 8192 / 128 / GPUS["h100_sxm"].processors
    assert costly - free == pytest.approx(waves * 1e-6, rel=0.03)
    free, costly = both(0)
    assert free == costly


def test_heads_narrower_than_what_is_rotated_need_a_kernel_before() -> None:
    heads, change = np.array([64.0, 128.0]), {"rotate_s": 1e-5, "dim_s": 1e-9}
    sizes = {"kv_len": 16, "head_dim": heads, "kernel": "torch_flow", "change": change}
    narrow, usual = time_s("attention_decode", dtype=FP8_CACHE, **sizes)
    assert narrow - usual == pytest.approx(1e-5, rel=0.1)  # XQA's kernel for fp8 rotates, if it can
    prompts = {**sizes, "q_len": 16, "change": {"generic_s": 1e-5}}
    narrow, usual = time_s("attention_prefill", **prompts)
    assert narrow - usual == pytest.approx(1e-5, rel=0.1)
    narrow, usual = time_s("attention_prefill", **{**prompts, "kernel": "fa3"})
    assert narrow - usual < 1e-6


def test_blocks_beyond_a_window_cost_their_start_in_one_xqa_kernel_and_nothing_in_the_other() -> None:
    sizes = {"batch": 64, "n_heads": 8, "n_kv_heads": 1, "window": 128, "kernel": "torch_flow"}
    sizes |= {"kv_len": np.array([512.0, 131_072.0])}
    near, far = time_s("attention_decode", **sizes)
    assert far > near + 1e-6
    near, far = time_s("attention_decode", dtype=FP8_CACHE, **sizes)
    assert far == pytest.approx(near)


def test_a_tile_alone_on_its_processor_may_be_slower_than_one_of_many() -> None:
    one = {"n_heads": 1, "n_kv_heads": 1, "q_len": 128, "kv_len": 16_384, "causal": 0}
    many = {**one, "q_len": 131_072}
    for sizes, ratio in ((one, 2.0), (many, 1.0)):
        fast, slow = (
            time_s("attention_encoder", change={"solo_share": s, "sharpness": 20.0}, **sizes)[0]
            for s in (1, 0.5)
        )
        assert slow / fast == pytest.approx(ratio, rel=0.1)


def test_one_triton_kernel_skips_what_lies_before_a_window_and_the_other_masks_it() -> None:
    sizes = {"q_len": 16_384, "kv_len": 16_384, "window": np.array([0, 128])}
    skips, masks = (
        time_s("attention_prefill", "b200_sxm", kernel=name, **sizes)
        for name in ("vllm_triton_attn", "triton")
    )
    assert skips[1] < 0.3 * skips[0]
    assert masks[1] == pytest.approx(masks[0], rel=0.01)


def test_long_prompts_reach_the_tensor_share() -> None:
    gpu, only_products = GPUS["h100_sxm"], {"softmax_share": 20.0, "sustained": 0.0, "tensor_share": 0.7}
    sizes = {"q_len": 65_536, "kv_len": 65_536, "n_heads": 32, "n_kv_heads": 1}
    found = time_s("attention_prefill", change=only_products, **sizes)[0]
    flop = 4 * 128 * 32 * 65_536 * 65_537 / 2
    assert flop / found / gpu.peak("bf16") == pytest.approx(0.7, rel=0.03)


@given(
    st.integers(1, 3000), st.integers(0, 3000), st.sampled_from([64, 128]), st.sampled_from([None, 128, 1000])
)
def test_keys_of_tiles_cover_the_visible_pairs(
    q_len: int, before: int, tile: int, window: int | None
) -> None:
    kv_len = q_len + before
    columns = rows(q_len=q_len, kv_len=kv_len, window=window or 0)
    shape = Shape.of(columns)
    count = np.ceil(shape.q_len / tile)
    keys, longest = keys_per_tile(shape, np.full(1, float(tile)), count, 32.0)
    pairs = Attention(1, q_len, kv_len, 1, 1, 128, window=window).pairs()
    assert keys[0] * tile >= pairs
    assert keys[0] <= count[0] * longest[0] * (1 + 1e-9)
    assert keys[0] * tile <= pairs + q_len * (tile + 32) + (tile + 32) * (kv_len + tile + 32)


def test_what_fits_into_the_l2_is_read_from_there() -> None:
    assert missed(np.array([0.0, 1.0, 1.25, 9.0]), 1.0) == pytest.approx([0, 0, 0.5, 1])
    gpu = GPUS["h100_sxm"]
    sizes = np.array([0.25, 8.0]) * gpu.l2_bytes
    keys = np.round(sizes / (32 * 8 * 2 * 128 * 2))
    time = time_s("attention_decode", batch=32, kv_len=keys)
    assert sizes[0] / time[0] < sizes[1] / time[1] < gpu.dram_byte_per_s
    shape = Shape.of(rows(window=[0, 7]))
    assert list(shape.window) == [NO_WINDOW, 7]


def test_heads_of_a_group_share_one_pass_over_the_latent_cache() -> None:
    few, many = time_s("mla_decode", batch=64, kv_len=32_768, n_heads=np.array([16, 64]))
    assert many / few == pytest.approx(1, rel=0.02)
    cache = 64 * 32_768 * 576 * 2
    assert few > cache / GPUS["h100_sxm"].dram_byte_per_s


def test_operands_of_latents_take_as_long_in_shared_memory_as_products_of_single_warps() -> None:
    """On an A100 a warp of 16 rows multiplies what it reads in the same clocks.

    2 x 16 FLOP of 2048 a clock, 2 bytes of 128. A step of 64 rows and latents takes the sum.
    """
    gpu, change = GPUS["a100_sxm"], {"block_s": 1e-8, "sharpness": 20.0}
    sizes = {"kernel": "default", "n_heads": 64, "batch": gpu.processors, "kv_len": [2**14, 2**15]}
    step_s = np.diff(time_s("mla_decode", gpu, change=change, **sizes))[0] / (2**14 / 64)
    products_s = 64 * 64 * 2 * (576 + 512) / (gpu.peak("bf16") / gpu.processors)
    read_s = 4 * 64 * (576 + 512) * 2 / (SHARED_BYTES_PER_CLOCK * gpu.clock_hz)
    assert read_s == pytest.approx(products_s, rel=0.01)
    written_s, queries_s = read_s / 4, read_s / 4 * 576 / (576 + 512)  # latents once, queries beside the keys
    least_s = products_s + read_s + written_s + queries_s
    assert least_s < step_s < 1.1 * least_s


@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("name", ["h100_sxm", "b200_sxm"])
def test_no_tile_of_latent_attention_multiplies_faster_than_the_peak(name: str, kv_dtype: str) -> None:
    """With memories that nothing waits for, longer caches take their FLOP at the peak or more."""
    gpu = replace(GPUS[name], dram_byte_per_s=1e16, l2_byte_per_s=1e16)
    dtype = Dtypes("bfloat16", "bf16", "bf16", "bf16", kv_dtype)
    fitted = [
        k
        for k in kernels_of(load_device(name))
        if k.op == "mla_decode" and k.kv_dtype == {"bf16": "bfloat16"}.get(kv_dtype, "fp8")
    ]
    assert fitted
    for kernel in fitted:
        peak = gpu.peak("fp8" if kv_dtype == "fp8" and kernel.kernel != "flash_attention" else "bf16")
        sizes = {"kernel": kernel.kernel, "batch": gpu.processors, "n_heads": 128, "kv_len": [2**14, 2**15]}
        flops = 2 * 128 * (576 + 512) * 2**14 * gpu.processors
        assert flops / np.diff(time_s("mla_decode", gpu, dtype, kernel.values, **sizes))[0] < peak


def test_blackwell_computes_heads_of_80_elements_as_128() -> None:
    sizes = {"q_len": 8192, "kv_len": 8192, "n_kv_heads": 32, "causal": 0}
    small, odd, whole = (
        time_s("attention_encoder", "b200_sxm", **sizes, head_dim=dim)[0] for dim in (64, 80, 128)
    )
    assert odd == pytest.approx(whole, rel=0.02)
    assert odd > 1.2 * small  # exponentials are as many


def test_prompts_of_latent_attention_cost_what_attention_of_its_sizes_costs() -> None:
    sizes = {"q_len": 16_384, "kv_len": 16_384, "n_heads": 128, "n_kv_heads": 128}
    latent = time_s("mla_prefill", **sizes)[0]
    narrow = time_s("attention_prefill", **sizes, head_dim=128)[0]
    wide = time_s("attention_prefill", **sizes, head_dim=192)[0]
    assert narrow < latent < wide


MEASURED = {  # one kernel of each kind: (device, table, op, backend, kernel, kv_dtype, most error)
    "prefill": (
        "a100_sxm",
        "aic_attn_prefill",
        "attention_prefill",
        "vllm",
        "vllm_flash_attn",
        "bfloat16",
        0.06,
    ),
    "decode": ("h100_sxm", "aic_attn_decode", "attention_decode", "sglang", "fa3", "bfloat16", 0.08),
    "mla": ("h100_sxm", "aic_mla", "mla_prefill", "trtllm", "default", "fp8", 0.08),
}


@pytest.mark.parametrize("kind", list(MEASURED))
def test_shapes_that_no_constant_saw_are_predicted(kind: str, shared: Callable[[str], Path]) -> None:
    pytest.importorskip("scipy")
    device, file, *wanted, most = MEASURED[kind]
    table = pd.read_parquet(shared(f"data/{file}.parquet"))
    names = ("gpu", "op", "backend", "kernel", "kv_dtype")
    for name, value in zip(names, (device, *wanted), strict=True):
        table = table[table[name].astype(str) == value]
    found = list(cells(table.iloc[::2], load_device(device)))
    assert len(found) == 1
    cell = found[0][2]
    assert mape(held_out_s(cell, folds=2), cell.time_s) < most
