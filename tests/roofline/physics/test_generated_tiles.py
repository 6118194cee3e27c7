"""Tiles of generated kernels: the numbers that their launchers' sources give."""

from __future__ import annotations

import numpy as np
import pytest

from hwspecs import load_device
from roofline.physics.base import Gpu
from roofline.physics.columns import dtypes_of
from roofline.physics.generated_tiles import candidates, launched, padded

BLACKWELL, HOPPER = (Gpu.of(load_device(name)) for name in ("b200_sxm", "h100_sxm"))


def offered(tokens: float, top_k: float, experts: float, dtype: str = "fp8") -> list[float]:
    sizes = (np.array([size]) for size in (tokens, top_k, experts))
    return [float(rows[0]) for rows in candidates(*sizes, dtypes_of(dtype))]


def test_candidates_are_around_the_power_of_two_above_the_mean() -> None:
    assert offered(768, 8, 256) == [16, 32, 64, 128]  # 24 rows an expert
    assert offered(256, 8, 256) == [8, 8, 16, 32]
    assert offered(1, 8, 256) == [8, 8, 16, 32]


def test_a_rank_of_few_experts_is_taken_for_crowded() -> None:
    """Of 8 ranks each has an eighth of the experts, and all tokens are counted for them."""
    assert offered(192, 8, 256)[1] == 8
    assert offered(192, 8, 256 / 8)[1] == 64


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        ("bfloat16", 128),
        ("fp8", 128),
        ("fp8_block", 128),
        ("nvfp4", 256),
        ("w4a8_mxfp4_mxfp8", 256),
        ("w4a16_mxfp4", 64),
    ],
)
def test_formats_end_at_the_tallest_tile_that_launchers_list(dtype: str, most: int) -> None:
    assert offered(100_000, 8, 128, dtype) == [most / 2, most, most, most]


def test_only_generated_kernels_have_launchers() -> None:
    names = ["sglang_flashinfer_trtllm_moe", "moe_torch_flow_min_latency", "vllm_fused_moe", "trtllm_cutlass"]
    one = np.full(len(names), 64.0)
    rows = {"kernel": np.array(names, dtype=object), "num_tokens": one}
    mask, tiles = launched(rows, one, one / 8, one / 4, BLACKWELL, dtypes_of("bfloat16"))
    assert mask.tolist() == [True, True, False, False]
    assert [size.tolist()[:2] for size in tiles] == [[16, 16], [16, 32], [16, 64], [16, 128]]
    other = {**rows, "kernel": np.array(["marlin"] * 4)}
    assert launched(other, one, one, one, BLACKWELL, dtypes_of("fp8"))[1] == []


def test_tensorrt_llm_s_default_is_generated_for_mxfp4_on_blackwell_and_tuned_beside_8_bits() -> None:
    rows = {"kernel": np.array(["moe_torch_flow"], dtype=object), "num_tokens": np.array([64.0])}
    sizes = np.array([768.0]), np.array([8.0]), np.array([256.0])  # 24 rows an expert
    tuned, untuned = (dtypes_of(name) for name in ("w4a8_mxfp4_mxfp8", "w4a16_mxfp4"))
    assert [float(size[0]) for size in launched(rows, *sizes, BLACKWELL, tuned)[1]] == [16, 32, 64, 128]
    assert [float(size[0]) for size in launched(rows, *sizes, BLACKWELL, untuned)[1]] == [32]
    for gpu, dtype in ((HOPPER, untuned), (BLACKWELL, dtypes_of("bfloat16"))):
        assert launched(rows, *sizes, gpu, dtype)[1] == []


def test_weights_in_mxfp4_are_filled_up_by_engine() -> None:
    rows = {"backend": np.array(["vllm", "trtllm", "vllm"], dtype=object)}
    hidden, width, found = np.full(3, 2880.0), np.full(3, 360.0), np.array([True, True, False])
    both = padded(hidden, width, found, rows, dtypes_of("w4a8_mxfp4_mxfp8"))
    assert [sizes.tolist() for sizes in both] == [[3072, 3072, 2880], [512, 384, 360]]
    assert padded(hidden, width, found, rows, dtypes_of("nvfp4"))[0] is hidden
