"""Tiles of CUTLASS's products for experts where nobody tuned them: the first that the library lists.

FlashInfer's kernels run so until an engine has tuned them: so the measured rows of SGLang and vLLM ran. On
Hopper the first tile is 128 rows by 16 columns: it fetches the rows of an expert, however few it has, again
for every 16 columns of the weights.

Source: `get_candidate_tiles`, `get_candidate_tiles_sm90`, `get_candidate_configs_sm100` and `_sm120` in
cutlass_heuristic.cpp, `getTmaWarpSpecializedConfigs` in moe_gemm_template_dispatch.h and `setRunnerProfiles`
in flashinfer_cutlass_fused_moe_binding.cu (FlashInfer, Apache-2.0, after TensorRT-LLM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roofline.physics.libraries import says
from workloads.dtypes import bytes_per_element

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Gpu

BY_WARPS = (32.0, 128.0)  # rows and columns where tiles are multiplied by warps: Ampere, Ada, sm12x
ON_HOPPER = (128.0, 16.0)
ON_HOPPER_WIDENED = (16.0, 64.0)  # of narrow weights, whose rows and columns are exchanged
ON_BLACKWELL = (128.0, 128.0)
ON_B200_4_BITS = (128.0, 64.0)


def untuned(rows: Columns, gpu: Gpu, dtype: Dtypes) -> tuple[Any, tuple[float, float]]:
    """Where these kernels ran untuned, and the rows and columns of their tile.

    8 bits in blocks are DeepGEMM's, which chooses by rule.
    """
    found = says(rows, "flashinfer_cutlass")
    return found & (dtype.name != "fp8_block"), _first(gpu, dtype)


def _first(gpu: Gpu, dtype: Dtypes) -> tuple[float, float]:
    if dtype.name == "nvfp4":
        return ON_B200_4_BITS if gpu.capability == 100 else ON_BLACKWELL
    if gpu.generation == 9:
        widened = bytes_per_element(dtype.weights) < bytes_per_element(dtype.inputs)
        return ON_HOPPER_WIDENED if widened else ON_HOPPER
    return ON_BLACKWELL if gpu.generation > 9 else BY_WARPS
