"""Tiles of generated kernels: the numbers that their launchers' sources give."""

from __future__ import annotations

import numpy as np
import pytest

from roofline.physics.columns import dtypes_of
from roofline.physics.generated_tiles import candidates, launched


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
    mask, tiles = launched(rows, one, one / 8, one / 4, dtypes_of("bfloat16"))
    assert mask.tolist() == [True, True, False, False]
    assert [size.tolist()[:2] for size in tiles] == [[16, 16], [16, 32], [16, 64], [16, 128]]
    assert launched({**rows, "kernel": np.array(["marlin"] * 4)}, one, one, one, dtypes_of("fp8"))[1] == []
