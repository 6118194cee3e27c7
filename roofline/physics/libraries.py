"""What the names of a table's backend, kernel and version tell of a kernel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hwspecs import Kernel
    from roofline.physics.base import Columns, Gpu

# Words of a kernel's name, the most telling first, and the library that has them.
Words = tuple[tuple[str, str], ...]

UNPACKED = "marlin_int4_moe"  # the tables' name of vLLM's `fused_experts` with `use_int4_w4a16`: no Marlin
WIDENED = "sglang_fused_moe"  # SGLang's, which widens mxfp4 weights when it loads them (`upcast_from_mxfp`)
TORCH_FLOW = "moe_torch_flow"  # the tables' name of whatever TensorRT-LLM runs for experts by default
OF_EXPERTS: Words = (
    (UNPACKED, "Triton"),
    ("marlin", "Marlin"),
    ("deepgemm", "DeepGEMM"),
    ("cutlass", "CUTLASS"),
    ("nongated", "CUTLASS"),  # TensorRT-LLM's generated kernels know gated layers only
    ("trtllm_", "trtllm-gen"),
    ("min_latency", "trtllm-gen"),
    ("triton", "Triton"),
    ("fused_moe", "Triton"),
    ("mxfp4_moe", "Triton"),
)
OF_ATTENTION: Words = (
    ("triton", "Triton"),
    ("trtllm", "trtllm-gen"),
    ("flashinfer", "FlashInfer"),
    ("fa3", "FlashAttention"),
    ("fa4", "FlashAttention"),
    ("flash_att", "FlashAttention"),
    ("torch_flow", "TensorRT-LLM"),
)

# What runs before Hopper in place of kernels that need a later GPU. vLLM takes FlashAttention 3 for compute
# capability 9.x alone and 2 otherwise (`get_flash_attn_version`), and trtllm-gen's kernels for 10.x, else
# FlashInfer's own (`supports_trtllm_attention`); SGLang's FlashAttention 3 has another name on Ampere.
BEFORE_HOPPER = {
    "vllm_flash_attn_fa3": "vllm_flash_attn",
    "vllm_flash_attn_fa4": "vllm_flash_attn",
    "vllm_flashinfer_trtllmdecode": "vllm_flashinfer",
    "vllm_flashinfer_trtllmprefill": "vllm_flashinfer",
    "trtllm_mha": "flashinfer",
    "fa3": "flash_attention",
    "vllm_vit_flash_attn_fa3": "vllm_vit_flash_attn",
    "vllm_vit_flash_attn_fa4": "vllm_vit_flash_attn",
}

# What SGLang attends by where nothing is asked for, by generation (`_get_default_attn_backend`); with queries
# in 8 bits over such a cache, which the tables say of their format.
DEFAULTS = {("sglang", 9): "fa3", ("sglang", 10): "trtllm_mha"}

# What multiplies experts where TensorRT-LLM is asked for nothing: `MoeConfig.backend` is CUTLASS up to 1.1;
# then AUTO: CUTLASS for all models but gpt-oss (`resolve_moe_backend`), whose kernels the tables name
# TORCH_FLOW.
EXPERTS_BY_DEFAULT = {"trtllm": "moe_torch_flow_cutlass"}

# SGLang's `int8_scaled_mm`, which has kernels up to Hopper (sgl-kernel/csrc/gemm/int8_gemm_kernel.cu).
OF_INTEGERS = ("gemm", "sglang", "int8_wo")
LAST_WITH_INTEGERS = 90  # compute capability x 10


def library(kernel: str, words: Words) -> str:
    """Whose products or attention a kernel runs; its own name where that is not known."""
    return next((name for word, name in words if word in kernel), kernel)


def chosen_by_tensorrt_llm(kernel: str, gpu: Gpu, dtype: str) -> str:
    """TensorRT-LLM's default for experts, by what it is for mxfp4: Triton's or, on Blackwell, generated."""
    if kernel != TORCH_FLOW or "mxfp4" not in dtype:
        return kernel
    return f"trtllm_{kernel}" if gpu.generation >= 10 else f"triton_{kernel}"


def generated(rows: Columns, gpu: Gpu, dtype: str) -> Any:
    """Where experts run TensorRT-LLM's generated kernels, by name or by its default."""
    return _named(
        rows,
        "kernel",
        lambda name: library(chosen_by_tensorrt_llm(name, gpu, dtype), OF_EXPERTS) == "trtllm-gen",
    )


def of_marlin(rows: Columns) -> Any:
    """Where experts run Marlin's kernels."""
    return _named(rows, "kernel", lambda name: library(name, OF_EXPERTS) == "Marlin")


def left_to_tensorrt_llm(rows: Columns) -> Any:
    """Where the kernel is whatever TensorRT-LLM runs for experts by default."""
    return _named(rows, "kernel", lambda name: name == TORCH_FLOW)


def says(rows: Columns, *words: str) -> Any:
    """Where the kernel's name has one of the words."""
    return _named(rows, "kernel", lambda name: any(word in name for word in words))


def of_engine(rows: Columns, engine: str) -> Any:
    """Where the backend is this engine."""
    return _named(rows, "backend", lambda name: name == engine)


def engine_of(rows: Columns) -> str:
    """The backend, in which rows that share constants agree."""
    return str(rows["backend"][0]) if "backend" in rows else ""


def kernel_of(rows: Columns) -> str:
    """The kernel that all rows of a cell share; empty where none is named."""
    return str(rows["kernel"][0]) if "kernel" in rows else ""


def since(rows: Columns, *least: int) -> Any:
    """Where the version is the one given or later; rows that name none are of today's."""
    found = _named(rows, "version", lambda name: not name or numbers(name) >= least)
    return found if "version" in rows else ~found


def attends_by(kernel: str, gpu: Gpu) -> str:
    """The kernel for attention that runs on this GPU where an engine is asked for one by name."""
    return BEFORE_HOPPER.get(kernel, kernel) if gpu.generation < 9 else kernel


def attends_by_default(engine: str, gpu: Gpu) -> str:
    """The kernel for attention that an engine takes on this GPU by itself; empty where that is not known."""
    return DEFAULTS.get((engine, gpu.generation), "")


def multiplies_integers(engine: str, dtype: str, gpu: Gpu, op: str = "gemm") -> bool:
    """Whether a weight-only product quantises its activations, too, and multiplies integers on this GPU."""
    able = gpu.capability <= LAST_WITH_INTEGERS and "int8" in gpu.tensor_flop_per_s
    return able and (op, engine, dtype) == OF_INTEGERS


def as_run(dtype: str, engine: str, gpu: Gpu, op: str) -> str:
    """The format that a product runs in, whose units bound its time."""
    return "sq" if multiplies_integers(engine, dtype, gpu, op) else dtype


def fitted_on_integers(kernel: Kernel) -> bool:
    """Whether a kernel's constants are of such a product."""
    return (kernel.op, kernel.backend, kernel.dtype) == OF_INTEGERS


def runs_on(kernel: Kernel, gpu: Gpu) -> bool:
    """Whether a library has a kernel that was measured elsewhere on this GPU, too."""
    return not fitted_on_integers(kernel) or gpu.capability <= LAST_WITH_INTEGERS


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 0.5.10rc1 is (0, 5, 10)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _named(rows: Columns, column: str, wanted: Any) -> Any:
    """Where a column of names has one that is wanted; nowhere without the column."""
    if column not in rows:
        return np.zeros(len(next(iter(rows.values()))), dtype=bool)
    names = np.asarray(rows[column]).tolist()
    known = {name: wanted(name) for name in set(names)}
    return np.array([known[name] for name in names], dtype=bool)
