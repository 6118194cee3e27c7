"""Tiles that engines' own CUTLASS kernels take: a rule by sizes, where a library's heuristics choose nothing.

cuBLAS looks for the fastest of many tiles; these kernels come in a handful of tiles, and the engine picks one
by the rows and columns of the product alone. What does not fill a tile is padded, and no sum over k is split.

Source: the dispatch of `scaled_mm` in vllm (`csrc/quantization/w8a8/cutlass`, sm89, sm90, sm100, sm120), of
`fp8_scaled_mm` and `int8_scaled_mm` in sglang (`sgl-kernel/csrc/gemm`); in TensorRT-LLM `gemm_dispatch_sm89`
and `_sm120` (fp8_blockscale_gemm), `getDefaultGemmConfig` (thop/fp4Gemm.cpp); all Apache-2.0, read in 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from roofline.physics.libraries import kernel_of
from roofline.physics.tile_search import Tiles, deep_gemm, early_deep_gemm, flashinfer_fp4, tensorrt_llm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roofline.physics.base import Columns, Dtypes, Gpu
    from roofline.physics.tile_search import Search

ANY = np.inf


class Rule(NamedTuple):
    """A tile of C, `rows` of A by `columns` of W, for products up to these sizes; the first that fits counts.

    Kernels that swap their operands have the rows of A where others have the columns of W.
    """

    most_m: float
    most_n: float
    most_k: float
    rows: int
    columns: int
    processors: int = 1  # that compute it together, an equal part each
    cluster_rows: int = 1  # tiles that run beside each other and share what they read
    cluster_columns: int = 1


# vllm on Hopper, up to 64 rows with operands swapped.
SWAPPED = (
    Rule(16, 1280, ANY, 16, 64, 1, 2),
    Rule(16, ANY, ANY, 16, 64),
    Rule(64, 1280, ANY, 16, 64, 1, 4),
    Rule(64, ANY, ANY, 64, 64),
    Rule(128, ANY, ANY, 64, 128, 1, 2),
    Rule(ANY, ANY, ANY, 128, 128, 1, 2),
)
SWAPPED_BY_SGLANG = (  # the same since May 2026, with two tiles more
    *SWAPPED[:3],
    Rule(32, ANY, ANY, 32, 64),
    SWAPPED[3],
    Rule(128, 4096, ANY, 64, 64),
    *SWAPPED[4:],
)
FP8_ON_ADA = (  # sglang's
    Rule(1, 8192, ANY, 16, 64),
    Rule(1, ANY, ANY, 32, 64),
    Rule(16, 8192, ANY, 16, 64),
    Rule(16, 16384, ANY, 32, 64),
    Rule(16, ANY, ANY, 16, 64),
    Rule(64, 16384, ANY, 32, 64),
    Rule(64, ANY, ANY, 16, 64),
    Rule(128, 16384, ANY, 64, 64),
    Rule(128, ANY, ANY, 32, 64),
    Rule(256, 8192, ANY, 128, 64),
    Rule(256, 16384, ANY, 64, 128),
    Rule(256, ANY, ANY, 128, 64),
    Rule(ANY, ANY, ANY, 128, 128),
)
INTEGERS_ON_ADA = (
    Rule(16, 8192, ANY, 16, 64),
    Rule(16, ANY, ANY, 16, 128),
    Rule(32, 8192, ANY, 32, 64),
    Rule(32, ANY, ANY, 32, 128),
    Rule(64, 8192, ANY, 64, 64),
    Rule(64, ANY, ANY, 64, 128),
    Rule(128, 8192, ANY, 64, 128),
    Rule(128, 16384, ANY, 128, 128),
    Rule(128, ANY, ANY, 64, 64),
    Rule(256, 4096, ANY, 64, 128),
    Rule(256, 8192, ANY, 128, 128),
    Rule(256, 16384, ANY, 256, 128),
    Rule(ANY, ANY, ANY, 128, 128),
)
# By engine, by what is multiplied, by compute capability x 10 and on.
RULES: Mapping[tuple[str, str], Mapping[int, tuple[Rule, ...]]] = {
    ("vllm", "fp8"): {
        89: (
            Rule(16, 8192, ANY, 16, 64),
            Rule(16, 24576, ANY, 16, 128),
            Rule(16, ANY, ANY, 32, 64),
            Rule(32, 8192, ANY, 32, 64),
            Rule(32, 16384, ANY, 32, 128),
            Rule(32, ANY, ANY, 32, 64),
            Rule(64, 8192, ANY, 64, 64),
            Rule(64, 16384, ANY, 64, 128),
            Rule(64, ANY, ANY, 64, 64),
            Rule(128, 8192, ANY, 64, 128),
            Rule(128, 16384, ANY, 128, 128),
            Rule(128, ANY, ANY, 128, 64),
            Rule(256, 4096, ANY, 64, 128),
            Rule(256, ANY, ANY, 128, 128),
            Rule(ANY, 4096, ANY, 128, 128),
            Rule(ANY, 8192, ANY, 256, 128),
            Rule(ANY, ANY, ANY, 128, 128),
        ),
        90: SWAPPED,
        100: (
            Rule(16, ANY, ANY, 32, 128, 2, 1, 2),
            Rule(63, ANY, ANY, 64, 128, 2, 1, 2),
            Rule(64, ANY, 4095, 64, 64),
            Rule(64, ANY, ANY, 64, 128, 2, 1, 2),
            Rule(256, ANY, ANY, 128, 128, 2),
            Rule(ANY, ANY, ANY, 256, 128, 2, 1, 2),
        ),
        120: (
            Rule(16, ANY, ANY, 16, 64),
            Rule(32, ANY, ANY, 32, 64),
            Rule(256, ANY, ANY, 64, 64),
            Rule(ANY, ANY, ANY, 128, 128),
        ),
    },
    ("sglang", "fp8"): {
        89: FP8_ON_ADA,
        90: SWAPPED_BY_SGLANG,
        100: (
            Rule(64, ANY, ANY, 64, 64),
            Rule(256, ANY, ANY, 128, 128, 2),
            Rule(ANY, ANY, ANY, 256, 128, 2, 1, 2),
        ),
        120: (Rule(ANY, ANY, ANY, 128, 128),),
    },
    ("trtllm", "fp8_block"): {89: (Rule(ANY, ANY, ANY, 32, 128),), 120: (Rule(ANY, ANY, ANY, 32, 128),)},
    # Untuned: a tuner that has run chooses among many.
    ("trtllm", "nvfp4"): {100: (Rule(ANY, ANY, ANY, 128, 256),), 120: (Rule(ANY, ANY, ANY, 128, 128),)},
    ("flashinfer", "nvfp4"): {120: (Rule(ANY, ANY, ANY, 128, 128),)},
    ("sglang 0.5.6", "int8_wo"): {
        80: (
            Rule(16, ANY, ANY, 16, 64),
            Rule(32, ANY, ANY, 32, 64),
            Rule(64, 4096, ANY, 64, 64),
            Rule(64, ANY, ANY, 64, 128),
            Rule(128, 8191, ANY, 64, 128),
            Rule(ANY, ANY, ANY, 128, 128),
        ),
        86: INTEGERS_ON_ADA,
        89: INTEGERS_ON_ADA,
        90: (
            Rule(32, 8191, ANY, 64, 64, 1, 1, 8),
            Rule(32, ANY, ANY, 64, 128, 1, 1, 8),
            Rule(64, 8191, ANY, 64, 64, 1, 1, 4),
            Rule(64, ANY, ANY, 64, 64),
            Rule(128, 4096, ANY, 64, 64, 1, 2),
            Rule(128, ANY, ANY, 64, 128, 1, 2),
            Rule(ANY, ANY, ANY, 128, 128, 1, 2),
        ),
    },
    ("sglang 0.5.6", "fp8"): {
        89: FP8_ON_ADA,
        90: (
            Rule(1, ANY, ANY, 64, 64, 1, 1, 8),
            Rule(64, ANY, ANY, 64, 64, 1, 1, 4),
            Rule(256, ANY, ANY, 64, 64),
            Rule(1024, ANY, ANY, 128, 128),
            Rule(ANY, ANY, ANY, 128, 128, 1, 2),
        ),
    },
}
# Whose kernel it is, by its name in the measured tables.
KERNELS: Mapping[str, str] = {
    "CutlassFP8ScaledMMLinearKernel": "vllm",
    "sglang_sgl_kernel_fp8_scaled_mm": "sglang",
    "sglang": "sglang 0.5.6",  # before its kernels had names
    "torch_flow": "trtllm",
    "deepgemm": "trtllm",
    "sglang_flashinfer_cutlass_nvfp4": "flashinfer",
    "FlashInferCutlassNvFp4LinearKernel": "flashinfer",
    # It runs on sm10x alone, where its tiles are searched for; on sm12x vLLM takes FlashInfer's CUTLASS.
    "FlashInferCuteDslNvFp4LinearKernel": "flashinfer",
}
# Kernels whose library looks for the tile, by name and format, on Hopper and Blackwell.
SEARCHES: Mapping[tuple[str, str], Search] = {
    ("sglang", "fp8_block"): early_deep_gemm,
    ("sglang_deepgemm_gemm_nt_f8f8bf16", "fp8_block"): deep_gemm,
    ("deepgemm", "fp8_block"): deep_gemm,
    ("torch_flow", "fp8_block"): tensorrt_llm,
    ("sglang_flashinfer_cutedsl_nvfp4", "nvfp4"): flashinfer_fp4,
    ("FlashInferCuteDslNvFp4LinearKernel", "nvfp4"): flashinfer_fp4,
}


def ruled(rows: Columns, m: Any, n: Any, k: Any, gpu: Gpu, dtype: Dtypes) -> Tiles | None:
    """The tile of each row by the rule of its kernel; None where it has none.

    Rows agree in their kernel, as those that share constants do.
    """
    kernel = kernel_of(rows)
    search = SEARCHES.get((kernel, dtype.name))
    if search and gpu.generation >= 9:
        return search(m, n, k, gpu)
    by_capability = RULES.get((KERNELS.get(kernel, ""), dtype.name), {})
    rules = by_capability.get(
        120 if gpu.capability >= 120 else 100 if gpu.capability >= 100 else gpu.capability
    )
    if rules is None:
        return None
    fits = [(m <= r.most_m) & (n <= r.most_n) & (k <= r.most_k) for r in rules]
    chosen = np.argmax(np.stack(fits), axis=0)  # the first that fits
    table = np.array([(*rule[3:], rule.rows) for rule in rules], dtype=np.float32)
    return Tiles(*table[chosen].T[:, None, None])
