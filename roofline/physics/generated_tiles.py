"""Rows of a tile of TensorRT-LLM's generated kernels for experts, as their launchers choose them.

A launcher knows the tokens of all ranks and the experts of its own, so that it takes these for more crowded
than they are where experts are spread over ranks. Its candidates are the power of two above the mean, the one
below it and the two above it; what was not tuned for so many tokens takes the smallest.

Source: `computeSelectedTileN`, `selectDefaultTileN` and the supported tiles of each launcher in FlashInfer's
csrc/trtllm_fused_moe_kernel_launcher.cu (Apache-2.0), which vLLM and SGLang call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics.libraries import says
from workloads.dtypes import bytes_per_element

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats

LEAST = 8.0
MOST = 128.0
MOST_OF_4_BITS = 256.0  # weights of 4 bits beside activations of as many or of 8
MOST_WIDENED = 64.0  # and beside those of 16


def launched(
    rows: Columns, tokens: Floats, top_k: Floats, rank_experts: Floats, dtype: Dtypes
) -> tuple[Any, list[Floats]]:
    """Where these kernels run, and the tiles of each row that the fastest is taken of; none elsewhere.

    TensorRT-LLM tunes its own. FlashInfer's were measured as they are before an engine has tuned them.
    """
    tuned = says(rows, "min_latency")
    found = tuned | says(rows, "trtllm_", "mxfp4_flashinfer") & ~says(rows, "cutlass")
    if not found.any():
        return found, []
    ladder = candidates(tokens, top_k, rank_experts, dtype)
    if not tuned.any():
        return found, ladder[:1]
    return found, [np.where(tuned, size, ladder[0]) for size in ladder]


def candidates(tokens: Floats, top_k: Floats, rank_experts: Floats, dtype: Dtypes) -> list[Floats]:
    """Rows of the tiles that a launcher offers, the smallest first; some twice at the ladder's ends."""
    most = _most(dtype)
    mean = np.maximum(tokens * top_k / rank_experts, 1.0)
    middle = np.clip(np.exp2(np.ceil(np.log2(mean))), LEAST, most)
    return [np.clip(middle * factor, LEAST, most) for factor in (0.5, 1.0, 2.0, 4.0)]


def _most(dtype: Dtypes) -> float:
    if "fp4" not in dtype.weights:
        return MOST
    return MOST_OF_4_BITS if bytes_per_element(dtype.inputs) <= 1 else MOST_WIDENED
