"""Limits of the product's model that are known on paper, and its error on shapes that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.physics.base import Dtypes, Gpu, total
from roofline.physics.calibration import cells
from roofline.physics.columns import dtypes_of, of_table
from roofline.physics.fit import mape
from roofline.physics.gemm import GemmModel
from roofline.physics.kernels import Kernels
from tests.roofline.physics.conftest import held_out_s
from workloads.operators import Gemm

MODEL = GemmModel()
GPUS = {name: Gpu.of(load_device(name)) for name in ("a100_sxm", "h100_sxm", "b200_sxm", "l40s")}
H100, BF16 = GPUS["h100_sxm"], dtypes_of("bfloat16")
SIZE = st.integers(1, 40_000)
ROWS = {name: np.array([size]) for name, size in (("m", 2048.0), ("n", 1024.0), ("k", 1024.0))}


def started(gpu: Gpu, dtype: Dtypes, **values: float) -> dict[str, float]:
    return {c.name: c.start for c in MODEL.constants(gpu, dtype)} | values


def parts(
    m: Any, n: Any, k: Any, gpu: Gpu = H100, dtype: Dtypes = BF16, names: Any = None, **values: float
) -> dict[str, Any]:
    """Of rows with `names` of engines, kernels or versions."""
    sizes = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=float)) for v in (m, n, k)))
    rows: dict[str, Any] = dict(zip("mnk", sizes, strict=True))
    rows |= {name: np.array(np.broadcast_to(v, len(sizes[0])), object) for name, v in (names or {}).items()}
    return MODEL.parts(rows, gpu, dtype, started(gpu, dtype, **values))


@pytest.mark.parametrize("name", list(GPUS))
@pytest.mark.parametrize("dtype", ["bfloat16", "fp8", "fp8_block", "int8_wo", "int4_wo", "sq", "nvfp4"])
@given(m=SIZE, n=SIZE, k=SIZE)
def test_parts_are_seconds_and_none_is_negative(name: str, dtype: str, m: int, n: int, k: int) -> None:
    formats = dtypes_of(dtype)
    if {"fp8": "fp8", "fp4": "fp4"}.get(formats.inputs, "bf16") not in GPUS[name].tensor_flop_per_s:
        return
    found = parts(m, n, k, GPUS[name], formats)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in found.values())
    assert total(found)[0] > 1e-6


def test_a_huge_product_runs_at_its_share_of_the_peak() -> None:
    size = 49_152.0  # many whole waves of every tile
    time = total(parts(size, size, size, compute_share=0.8, swept_columns=64.0, sustained=0.0))
    assert time[0] == pytest.approx(2 * size**3 / (0.8 * H100.peak("bf16")), rel=0.05)


def test_seconds_of_full_load_lose_the_clock_that_the_power_limit_takes_and_short_products_none() -> None:
    sizes = np.array([512.0, 4096.0, 98_304.0])  # 4096: 0.2 ms, less than a power limit averages over
    kept, lost = (total(parts(sizes, sizes, sizes, sustained=share)) for share in (0.0, 0.1))
    assert (lost / kept).tolist() == pytest.approx([1.0, 1.0, 1.1], rel=0.01)


def test_one_row_streams_the_weights_at_the_share_of_the_bandwidth() -> None:
    n = k = 65_536.0
    time = total(parts(1, n, k, memory_share=0.9))
    assert time[0] == pytest.approx(2 * n * k / (0.9 * H100.dram_byte_per_s), rel=0.05)


def test_nothing_to_do_costs_a_launch() -> None:
    found = parts(1, 8, 8)
    assert 1 < total(found)[0] / found["launch"][0] < 1.15


def test_one_tile_more_than_a_wave_costs_part_of_a_wave() -> None:
    """132 processors: 132 tiles of 128 x 256 fill a wave, 133 begin a second one."""
    only = {"choice": 2.0, "small_tiles": 0.5, "tall_tiles": 100.0, "split_s": 1e-3}
    within, beyond = (total(parts(128 * tiles, 256, 8192, felt_waves=1.0, **only))[0] for tiles in (132, 133))
    smooth = total(parts(128 * 133, 256, 8192, felt_waves=0.02, **only))[0]
    assert beyond > 1.3 * within
    assert smooth < 1.1 * within


def test_weights_that_stay_in_the_l2_are_not_read_from_memory() -> None:
    small = parts(16, 1024, 1024)  # 5.5 copies of 2 MB
    assert small["ideal"][0] < 2 * 1024 * 1024 / H100.dram_byte_per_s / 3
    assert small["first loads"][0] < 1e-8


@pytest.mark.parametrize("name", ["b200_sxm", "l40s"])
def test_a_model_reads_its_weights_from_memory_and_its_activations_from_the_l2(name: str) -> None:
    """All other layers run between two uses of a weight; the kernel before wrote what is multiplied."""
    gpu, kernels = GPUS[name], Kernels(load_device(name))
    product, table = kernels.operator(Gemm(2048, 1024, 1024)), kernels.table("gemm", "bf16", "", ROWS)
    assert product is not None
    assert table is not None
    assert gpu.l2_bytes / 4 > 5.5 * 1024 * 1024 * 2
    assert product.parts["ideal"][0] == pytest.approx(
        max(1024 * 1024 * 2 / gpu.dram_byte_per_s, 2 * 2048 * 1024 * 1024 / gpu.peak("bf16")), rel=1e-3
    )
    first = product.parts["first loads"][0]
    assert first > 1e-7
    assert table.parts["first loads"][0] < first / 100


def test_rows_of_a_campaign_are_as_cold_as_their_tag_says() -> None:
    table = pd.DataFrame({"m": 16, "n": 1024, "k": 1024, "tag": ["cold, graph replay", "warm, by call", ""]})
    rows = of_table(table)
    first = MODEL.parts(rows, H100, BF16, started(H100, BF16, first_load_s=1e-6))["first loads"]
    assert first[0] == pytest.approx(1e-6, rel=1e-3)
    assert first[1] < first[2] < 1e-8  # one copy and 5.5 of 2 MB


def test_what_the_l2_keeps_comes_at_the_rate_of_its_slices() -> None:
    """16 MB of weights for two rows: halving the rate doubles their time, where nothing else is slow."""
    fast = {"resident": 8.0, "compute_share": 1.1, "l2_share": 2.0, "store_share": 5.0, "choice": 200.0}
    fast |= {"wave_s": 1e-8, "step_s": 1e-9, "sharpness": 20.0, "small_tiles": 1.0, "felt_waves": 0.02}
    half, quarter = (total(parts(2, 32_768, 256, slices_share=s, **fast))[0] for s in (0.5, 0.25))
    size = (2 * 256 + 32_768 * 256 + 2 * 32_768) * 2
    assert quarter - half == pytest.approx(2 * size / H100.l2_byte_per_s, rel=0.01)


def test_a_single_tile_takes_the_latency_of_all_its_steps() -> None:
    """1,024 steps of 128 bytes of k; splitting the sum is made too dear, arithmetic fast."""
    fast = {"compute_share": 1.1, "small_tiles": 1.0, "choice": 200.0, "split_s": 1e-3}
    one, two = (total(parts(8, 8, 65_536, GPUS["b200_sxm"], step_s=s, **fast))[0] for s in (4e-8, 8e-8))
    assert two - one == pytest.approx(1024 * 4e-8, rel=0.01)


def test_one_row_alone_pays_for_another_kernel() -> None:
    one, two = (total(parts(rows, 512, 512, vector_s=1e-5))[0] for rows in (1, 2))
    assert one - two == pytest.approx(1e-5, rel=0.01)


def test_few_rows_pay_for_another_kernel_on_ampere_alone() -> None:
    """cuBLAS adds up split sums in a kernel of its own there (`splitKreduce`), but not of a vector."""
    found = total(parts([1, 2, 16, 17], 64, 64, GPUS["a100_sxm"], few_s=1e-6))
    assert np.diff(found) == pytest.approx([1e-6, 0, -1e-6], abs=5e-8)
    assert "few_s" not in started(H100, BF16)


def test_one_scale_of_the_whole_matrix_takes_kernels_of_its_own_and_reads_it_twice() -> None:
    """A maximum, then the conversion: 2 + 2 + 1 bytes an element, where scales of rows need 2 + 1."""
    values = {"launch_s": 2e-6, "scale_s": 4e-6, "quantise_row_s": 1e-11, "quantise_share": 0.5}
    one, other = (
        parts(65_536, 64, 8192, H100, dtypes_of("fp8"), {"backend": engine}, **values)["quantise kernel"][0]
        for engine in ("vllm", "trtllm")
    )
    size = 65_536 * 8192 / (0.5 * H100.dram_byte_per_s)
    assert one == pytest.approx(2e-6 + 3 * size, rel=1e-3)
    assert other == pytest.approx(6e-6 + 5 * size, rel=1e-3)


def test_weight_only_products_quantise_where_the_library_multiplies_integers() -> None:
    for engine, does in (("sglang", True), ("trtllm", False), ("", False)):
        names = {"backend": engine} if engine else {}
        assert ("quantise kernel" in parts(1024, 1024, 1024, H100, dtypes_of("int8_wo"), names)) == does


def test_activations_quantised_in_plain_torch_take_nine_kernels_and_47_bytes_an_element() -> None:
    """SGLang's int8 rows before 0.5.10; nobody runs it so now, and what names no version is of today."""
    names = {"backend": "sglang", "version": ["0.5.6.post2", ""]}
    values = {"launch_s": 2e-6, "quantise_row_s": 1e-11, "quantise_share": 0.5}
    sizes = ([4096] * 2, 4096, 4096)
    plain, fused = parts(*sizes, H100, dtypes_of("int8_wo"), names, **values)["quantise kernel"]
    each = 4096 * 4096 / (0.5 * H100.dram_byte_per_s)
    assert plain == pytest.approx(9 * 2e-6 + 47 * each, rel=2e-3)
    assert fused == pytest.approx(2e-6 + 3 * each, rel=2e-3)


def test_integers_are_multiplied_at_their_own_peak_and_not_widened() -> None:
    values = {"compute_share": 1.0, "widen_share": 0.01, "quantise_share": 2.0}
    wide, narrow = (
        parts(8192, 8192, 8192, H100, dtypes_of("int8_wo"), names, **values)
        for names in ({}, {"backend": "sglang"})
    )
    assert narrow["ideal"][0] == pytest.approx(2 * 8192.0**3 / H100.peak("int8"), rel=0.01)
    assert total(narrow)[0] < total(wide)[0] / 4


def test_narrow_formats_pay_for_the_quantise_kernel() -> None:
    wide, narrow = parts(8192, 64, 4096), parts(8192, 64, 4096, dtype=dtypes_of("fp8"))
    assert "quantise kernel" not in wide
    least = 8192 * 4096 * (2 + 1) / H100.dram_byte_per_s
    assert narrow["quantise kernel"][0] > least


@pytest.mark.parametrize("name", ["fp8", "fp8_block", "nvfp4"])
def test_a_campaign_times_products_of_operands_that_were_quantised_before(name: str) -> None:
    names = {"kernel": "torch.scaled_mm"}
    assert "quantise kernel" not in parts(2048, 1024, 1024, GPUS["b200_sxm"], dtypes_of(name), names)


def test_time_grows_with_every_size() -> None:
    sizes = 2.0 ** np.arange(4, 16)
    for one in range(3):
        grid = [np.full(len(sizes), 4096.0)] * 3
        grid[one] = sizes
        assert (np.diff(total(parts(*grid))) > -1e-8).all()


def test_every_constant_says_why_and_every_part_too() -> None:
    for dtype in ("bfloat16", "fp8", "int8_wo"):
        formats = dtypes_of(dtype)
        assert all(c.why for c in MODEL.constants(H100, formats))
        assert set(parts(8, 8, 8, dtype=formats)) <= set(MODEL.why)


@pytest.mark.parametrize(
    ("device", "dtype", "backend", "most"),
    [
        ("h100_sxm", "bfloat16", "trtllm", 0.06),
        ("h100_sxm", "fp8", "trtllm", 0.05),
        ("h100_sxm", "int8_wo", "sglang", 0.12),  # quantises activations and multiplies integers
    ],
)
def test_error_on_shape_families_held_out(
    shared: Callable[[str], Path], device: str, dtype: str, backend: str, most: float
) -> None:
    table = pd.read_parquet(shared("data/aic_gemm.parquet"))
    table = table[(table["gpu"] == device) & (table["dtype"] == dtype) & (table["backend"] == backend)]
    ((_, _, cell),) = cells(table, load_device(device))
    assert mape(held_out_s(cell), cell.time_s) < most


def test_weights_that_runs_rotate_over_leave_the_l2_and_one_copy_stays() -> None:
    """4096 x 4096 in 16 bits: one copy is 34 of an H100's 50 MB, five and a half are 185."""
    names = {"backend": ["sglang", "sglang", "vllm"], "version": ["0.5.6.post2", "0.5.10", "0.14.0"]}
    # Slices that deliver all that the ports take: 16.7 TB/s.
    all_of_it = {"resident": 1.0, "slices_share": 1.0}
    found = parts([1] * 3, 4096, 4096, H100, BF16, names, **all_of_it)
    old, new, other = (found["ideal"] + found["reached peaks"]).tolist()
    assert new == other
    assert old < 0.3 * new
    assert total(parts([1] * 3, 4096, 4096, **all_of_it))[0] == total(found)[1]


@pytest.mark.parametrize(("dtype", "padded"), [("fp8", False), ("fp8_block", True)])
def test_few_rows_trade_places_with_columns_but_for_scaled_blocks(dtype: str, padded: bool) -> None:
    """64 rows for one are 128 FLOP per byte of W: more than an H20 multiplies while it streams, 74."""
    h20 = Gpu.of(load_device("h20"))
    shares = {"compute_share": 1.0, "memory_share": 1.0, "small_tiles": 1.0}
    found = parts(1.0, 16_384.0, 16_384.0, h20, dtypes_of(dtype), **shares)
    assert found["ideal"][0] == pytest.approx(16_384**2 / h20.dram_byte_per_s, rel=0.01)
    assert (found["tiles and waves"][0] > 0.5 * found["ideal"][0]) == padded


def test_rows_that_the_instruction_adds_make_a_tile_no_smaller() -> None:
    """A tile of 16 rows is multiplied as one of 64 on Hopper, and takes as long."""
    h20, names = (
        Gpu.of(load_device("h20")),
        {"backend": "sglang", "kernel": "sglang_deepgemm_gemm_nt_f8f8bf16"},
    )
    values = {"small_tiles": 0.5, "beyond": 0.01}
    few, many = total(parts([16, 64], 24_576, 7168, h20, dtypes_of("fp8_block"), names, **values))
    assert few == pytest.approx(many, rel=0.02)


def test_a_cut_of_k_weighs_little_where_tiles_fill_the_device_and_much_where_one_does_not() -> None:
    """The mean over candidates has some of every cut: 3,584 tiles of 128 x 128 on 132 processors, or one."""
    many, one = parts(4096, 14_336, 4096), parts(128, 128, 65_536)
    shares = [found["split over k"][0] / total(found)[0] for found in (many, one)]
    assert 0 < shares[0] < 0.02
    assert shares[1] > 5 * shares[0]
    assert "chance" in MODEL.why["split over k"]
