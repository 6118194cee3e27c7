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

from roofline.physics.base import ceil_div
from roofline.physics.libraries import generated, left_to_tensorrt_llm, of_engine, says
from workloads.dtypes import bytes_per_element

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

COLUMNS = 128.0  # of the weights: the rows of one instruction (t128xN in the kernels' names)
LEAST = 8.0
MOST = 128.0
MOST_OF_4_BITS = 256.0  # weights of 4 bits beside activations of as many or of 8
MOST_WIDENED = 64.0  # and beside those of 16


def launched(
    rows: Columns, tokens: Floats, top_k: Floats, rank_experts: Floats, gpu: Gpu, dtype: Dtypes
) -> tuple[Any, list[Floats]]:
    """Where these kernels run, and the tiles of each row that the fastest is taken of; none elsewhere.

    TensorRT-LLM tunes its own, but its measured rows of mxfp4 beside 16 bits ran untuned, with the power of
    two above the mean. FlashInfer's were measured as they are before an engine has tuned them.
    """
    found = generated(rows, gpu, dtype.name)
    if not found.any():
        return found, []
    default = left_to_tensorrt_llm(rows)
    tuned = says(rows, "min_latency") | default & (bytes_per_element(dtype.inputs) <= 1)
    ladder = candidates(tokens, top_k, rank_experts, dtype)
    first = np.where(default, ladder[1], ladder[0])
    if not tuned.any():
        return found, [first]
    return found, [np.where(tuned, size, first) for size in ladder]


def padded(hidden: Floats, width: Floats, found: Any, rows: Columns, dtype: Dtypes) -> tuple[Floats, Floats]:
    """Sizes that weights in mxfp4 are filled up to for these kernels, by engine.

    vLLM's and SGLang's mxfp4.py (`round_up(..., 256)`), `MXFP4WeightTRTLLMGenFusedMoEMethod` in TensorRT-LLM.
    """
    if "mxfp4" not in dtype.weights or not np.any(found):
        return hidden, width
    whole = np.where(of_engine(rows, "trtllm"), 128.0, 256.0)
    wide = whole * ceil_div(width, whole)
    return np.where(found, 256.0 * ceil_div(hidden, 256.0), hidden), np.where(found, wide, width)


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
