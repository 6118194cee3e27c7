"""The dtype names of operator tables, and what they store and multiply in."""

from __future__ import annotations

# dtype in a table -> (multiplied in, weights stored in, results in). `_wo` is weight-only quantisation.
DTYPES = {
    "bfloat16": ("bf16", "bf16", "bf16"),
    "float16": ("fp16", "fp16", "fp16"),
    "half": ("fp16", "fp16", "fp16"),
    "float32": ("fp32", "fp32", "fp32"),
    "bf16": ("bf16", "bf16", "bf16"),
    "fp16": ("fp16", "fp16", "fp16"),
    "fp32": ("fp32", "fp32", "fp32"),
    "tf32": ("tf32", "tf32", "tf32"),
    "fp64": ("fp64", "fp64", "fp64"),
    "fp8": ("fp8", "fp8", "bf16"),
    "fp8_block": ("fp8", "fp8", "bf16"),
    "int8": ("int8", "int8", "bf16"),
    "sq": ("int8", "int8", "bf16"),  # SmoothQuant W8A8
    "mxfp8": ("fp8", "mxfp8", "bf16"),
    "mxfp4": ("fp4", "mxfp4", "bf16"),
    "nvfp4": ("fp4", "nvfp4", "bf16"),
    "int8_wo": ("bf16", "int8", "bf16"),
    "int4_wo": ("bf16", "int4", "bf16"),
    "w4a16_mxfp4": ("bf16", "mxfp4", "bf16"),
    "w4a8_mxfp4_mxfp8": ("fp8", "mxfp4", "bf16"),
}
