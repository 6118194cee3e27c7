"""Tiles by rule against the sources that state them, and what a tile that is not full costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwspecs import load_device
from roofline.physics.base import Gpu, total
from roofline.physics.columns import dtypes_of
from roofline.physics.dispatch import KERNELS, RULES, SEARCHES, ruled
from roofline.physics.gemm import GemmModel
from roofline.physics.gemm_cut import _again, _beyond, _covering
from roofline.physics.tile_search import Tiles

VLLM, SGLANG = "CutlassFP8ScaledMMLinearKernel", "sglang_sgl_kernel_fp8_scaled_mm"
FP8, ANY = dtypes_of("fp8"), 4096
GPUS = {name: Gpu.of(load_device(name)) for name in ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s")}
GPUS["rtx_pro_6000_server"] = Gpu.of(load_device("rtx_pro_6000_server"))
H100 = GPUS["h100_sxm"]


def rows(kernel: str, *sizes: tuple[int, int, int]) -> dict[str, Any]:
    m, n, k = np.array(sizes, dtype=float).T
    return {"m": m, "n": n, "k": k, "kernel": np.full(len(m), kernel, dtype=object)}


# Read off `csrc/quantization/w8a8/cutlass` of vllm and `sgl-kernel/csrc/gemm` of sglang.
STATED = [
    (VLLM, "h100_sxm", (16, 8192, ANY), (16, 64, 1)),
    (VLLM, "h100_sxm", (17, 1280, ANY), (16, 64, 1)),
    (VLLM, "h100_sxm", (17, 1281, ANY), (64, 64, 1)),
    (VLLM, "h100_sxm", (65, 1280, ANY), (64, 128, 1)),
    (VLLM, "h200_sxm", (129, 1280, ANY), (128, 128, 1)),
    (VLLM, "b200_sxm", (1, 1280, ANY), (32, 128, 2)),
    (VLLM, "b200_sxm", (64, 1280, 4095), (64, 64, 1)),
    (VLLM, "b200_sxm", (64, 1280, 4096), (64, 128, 2)),
    (VLLM, "b200_sxm", (257, 1280, ANY), (256, 128, 2)),
    (VLLM, "l40s", (16, 8193, ANY), (16, 128, 1)),
    (VLLM, "l40s", (300, 8192, ANY), (256, 128, 1)),
    (VLLM, "rtx_pro_6000_server", (33, 8192, ANY), (64, 64, 1)),
    (SGLANG, "h100_sxm", (17, 1281, ANY), (32, 64, 1)),
    (SGLANG, "h100_sxm", (33, 1281, ANY), (64, 64, 1)),
    (SGLANG, "h100_sxm", (65, 4096, ANY), (64, 64, 1)),
    (SGLANG, "h100_sxm", (65, 4097, ANY), (64, 128, 1)),
    (SGLANG, "b200_sxm", (64, 1280, 4096), (64, 64, 1)),
    (SGLANG, "l40s", (129, 16384, ANY), (64, 128, 1)),
    (SGLANG, "rtx_pro_6000_server", (1, 8192, ANY), (128, 128, 1)),
    ("sglang", "l40s", (129, 16384, ANY), (64, 128, 1)),
    ("sglang", "h100_sxm", (256, 8192, ANY), (64, 64, 1)),
    ("sglang", "h100_sxm", (257, 8192, ANY), (128, 128, 1)),
    # `int8_scaled_mm` of sgl-kernel, after activations were quantised.
    ("sglang/int8_wo", "h100_sxm", (32, 8192, ANY), (64, 128, 1)),
    ("sglang/int8_wo", "a100_sxm", (128, 8191, ANY), (64, 128, 1)),
    ("sglang/int8_wo", "l40s", (256, 16384, ANY), (256, 128, 1)),
    # TensorRT-LLM's kernels of one tile.
    ("torch_flow/nvfp4", "b200_sxm", (1, 64, ANY), (128, 256, 1)),
    ("torch_flow/nvfp4", "rtx_pro_6000_server", (1, 64, ANY), (128, 128, 1)),
    ("FlashInferCuteDslNvFp4LinearKernel/nvfp4", "rtx_pro_6000_server", (1, 64, ANY), (128, 128, 1)),
    ("torch_flow/fp8_block", "l40s", (4096, 4096, ANY), (32, 128, 1)),
    # DeepGEMM: the fewest waves over 132 processors, then the fullest. 128 tiles of 64 x 112 are one.
    ("sglang_deepgemm_gemm_nt_f8f8bf16/fp8_block", "h100_sxm", (128, 7168, ANY), (64, 112, 1)),
    ("sglang_deepgemm_gemm_nt_f8f8bf16/fp8_block", "h100_sxm", (16, 7168, ANY), (16, 64, 1)),
    ("sglang/fp8_block", "h100_sxm", (16, 7168, ANY), (64, 64, 1)),
    ("deepgemm/fp8_block", "b200_sxm", (33, 7168, ANY), (64, 64, 1)),
    ("deepgemm/fp8_block", "b200_sxm", (511, 7168, ANY), (128, 224, 1)),
    ("deepgemm/fp8_block", "b200_sxm", (512, 7168, ANY), (256, 224, 2)),
    ("deepgemm/fp8_block", "b200_sxm", (4096, 65536, 256), (256, 128, 2)),
    ("torch_flow/fp8_block", "h100_sxm", (31, 7168, ANY), (16, 128, 1)),
    ("torch_flow/fp8_block", "h100_sxm", (32, 7168, ANY), (64, 56, 1)),
    ("torch_flow/fp8_block", "h100_sxm", (65, 7168, ANY), (128, 56, 1)),
    # FlashInfer: 8 or 16 rows trade places with columns; the tile is that of the power of two below.
    ("FlashInferCuteDslNvFp4LinearKernel/nvfp4", "b200_sxm", (16, 1024, ANY), (64, 128, 1)),
    ("FlashInferCuteDslNvFp4LinearKernel/nvfp4", "b200_sxm", (15, 1024, ANY), (128, 64, 1)),
    ("sglang_flashinfer_cutedsl_nvfp4/nvfp4", "b200_sxm", (8191, 8192, ANY), (128, 256, 1)),
]


@pytest.mark.parametrize(("kernel", "name", "sizes", "tile"), STATED)
def test_the_tile_is_the_one_that_the_engine_takes(
    kernel: str, name: str, sizes: tuple[int, int, int], tile: tuple[int, int, int]
) -> None:
    kernel, _, dtype = kernel.partition("/")
    formats = dtypes_of(dtype or "fp8")
    found = ruled(rows(kernel, sizes), *np.array(sizes, dtype=float)[:, None], GPUS[name], formats)
    assert found is not None
    assert tuple(float(np.squeeze(field)) for field in found[:3]) == tile


def test_other_kernels_formats_and_devices_have_no_rule() -> None:
    sizes = np.ones((3, 1))
    for kernel, gpu, dtype in (
        (VLLM, "a100_sxm", "fp8"),
        (VLLM, "h100_sxm", "bfloat16"),
        ("x", "l40s", "fp8"),
    ):
        assert ruled(rows(kernel, (1, 1, 1)), *sizes, GPUS[gpu], dtypes_of(dtype)) is None
    assert ruled({"m": np.ones(1)}, *sizes, H100, FP8) is None


def test_every_rule_covers_every_size_and_every_named_kernel_has_rules() -> None:
    assert {engine for engine, _ in RULES} == set(KERNELS.values())
    for by_capability in RULES.values():
        for rules in by_capability.values():
            assert rules[-1][:3] == (np.inf, np.inf, np.inf)


@pytest.mark.parametrize(("kernel", "dtype"), sorted(SEARCHES))
@pytest.mark.parametrize("name", ["h100_sxm", "b200_sxm"])
def test_a_searched_tile_is_found_for_each_product_and_multiplies_whole_instructions(
    kernel: str, dtype: str, name: str
) -> None:
    """The tensor core of Hopper takes 64 rows of A or of W, that of Blackwell 128."""
    gpu, m = GPUS[name], np.array([1.0, 16, 33, 64, 129, 4097, 1, 33])
    n, k = np.repeat([256.0, 65_536.0], 4), np.full(8, 4096.0)
    found = ruled(rows(kernel, (1, 1, 1)), m, n, k, gpu, dtypes_of(dtype))
    assert found is not None
    tall, wide, together, *_, multiplied = (np.squeeze(field) for field in found[:6])
    assert (np.minimum(tall, wide) >= 16).all()
    assert (multiplied >= tall).all()
    assert (np.maximum(multiplied, wide) >= (128 if gpu.generation >= 10 else 64) * together).all()
    one = ruled(rows(kernel, (1, 1, 1)), m[5:6], n[5:6], k[5:6], gpu, dtypes_of(dtype))
    assert one is not None
    assert tuple(np.squeeze(f) for f in one[:3]) == (tall[5], wide[5], together[5]), "alone as among others"


def seconds(*sizes: tuple[int, int, int], gpu: Gpu = H100, **values: float) -> Any:
    model, table = GemmModel(), rows(VLLM, *sizes)
    constants = {c.name: c.start for c in model.constants(gpu, FP8)} | values
    parts = model.parts(table, gpu, FP8, constants)
    return total(parts) - parts["quantise kernel"]


def test_a_tile_of_one_row_takes_as_long_as_a_full_one() -> None:
    """129 and 256 rows are two tiles of 128, and the memory is not what limits them."""
    sizes = (129, 8448, 8192), (256, 8448, 8192), (257, 8448, 8192)
    few, full, next_one = seconds(*sizes, beyond=0.01, sharpness=20.0)
    assert few == pytest.approx(full, rel=0.04), "but for what is read and written"
    assert next_one > 1.3 * full


def test_rows_beyond_the_matrix_cost_only_where_there_are_some() -> None:
    sizes = (257, 8448, 8192), (512, 8448, 8192)
    cheap, dear = seconds(*sizes, beyond=0.01), seconds(*sizes, beyond=6.0)
    assert dear[0] > 1.2 * cheap[0]
    assert dear[1] == pytest.approx(cheap[1])
    assert dear[0] > dear[1], "257 rows take longer than 512, as they were measured to"
    assert "beyond" not in {c.name for c in GemmModel().constants(GPUS["l40s"], FP8)}


def test_clusters_are_whole_and_rows_are_counted_once() -> None:
    assert _covering(257, 128, 2) == 4
    assert _covering(0, 128, 1) == 1
    whole, missing = _beyond(257.0, 128.0, 4.0)
    assert (whole, missing) == (0.5, (4 * 128 - 257) / 2)


def again(a: float, w: float, down: float, across: float, chosen: bool, **cluster: int) -> float:
    tiles = Tiles(128, 128, 1, cluster.get("rows", 1), cluster.get("columns", 1), 128, ordered=not chosen)
    return float(_again(a, w, down, across, H100, tiles, 1.0))


def test_what_the_l2_cannot_keep_is_read_by_every_sweep_over_the_other_side() -> None:
    large, small = 64 * H100.l2_bytes, H100.l2_bytes / 64
    assert again(large, large, 256, 512, False) == pytest.approx(large * 511, rel=1e-6)
    assert again(large, large, 512, 256, False) == pytest.approx(large * 511, rel=1e-6)
    assert again(large, large, 512, 256, False, rows=2) == pytest.approx(large * 255, rel=1e-6)
    assert again(small, large, 256, 512, False) < small
    assert again(small, large, 256, 512, True) < small
    assert again(large, large, 256, 512, True) == pytest.approx(large * 255, rel=1e-6), "the cheaper side"
    assert again(large, large, 1, 512, False) == pytest.approx(large * (512 / H100.processors - 1), rel=1e-6)
