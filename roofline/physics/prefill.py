"""Attention of many queries at once: prompts, chunks of prompts, encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.attention import (
    APPEND_S,
    FLASHINFER,
    OF_SGLANG,
    OVERLAP,
    START_S,
    WHY,
    Shape,
    appends,
    compiled,
    conversions,
    element,
    missed,
    row_s,
    scheduled,
)
from roofline.physics.base import HEAT_S, WARP_FLOP_PER_CLOCK, Constant, ceil_div, smooth_max
from roofline.physics.decode import PADDING, ROTATED, SWAP
from roofline.physics.libraries import OF_ATTENTION, kernel_of, library
from roofline.physics.model import KernelModel
from roofline.physics.prompt_tiles import (
    PAGED,
    Tiling,
    falls_back,
    heads_computed,
    keys_per_tile,
    tiling_of,
)
from workloads.dtypes import compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

FLASH_4 = ("vllm_vit_flash_attn_fa4", "flash_attention_v4", "vllm_flash_attn_fa4")
SPLIT_BELOW, SPLIT_KEYS = 0.8, 128.0  # waves; keys of a block (FlashAttention 3, num_splits_heuristic)
APPEND_THREADS = 512.0  # of the block that appends one token to the cache, at most
LEAST_THREADS = 256.0  # of the same, in SGLang's kernel
ROTATION_BYTES = 4.0  # per element: a sine and a cosine of 4 bytes for each pair
SOFTMAX, PACKED_SOFTMAX, POLYNOMIAL = 3.5, 2.0, 6.0  # instructions, see `vector_instructions`
# Overlap of products and exponentials (the exponent of a norm, as OVERLAP) where a warp group waits for its
# own products, beside which only the other group's exponentials run. FlashAttention 3 without overlap in a
# group reaches 582 instead of 661 TFLOP/s on an H100, with heads of 128 (arXiv:2407.08608, table 2); the
# 4-norm of its products and exponentials is 0.88 of their 2-norm.
IN_TURN = 2.0
RESCALED = 256.0  # columns of results that the warps of a softmax have, at most
CONSTANTS = (
    Constant("launch_s", "s", 1e-6, 5e-5, 1e-5, "launches of the consecutive kernels"),
    Constant("single_launch_s", "s", 1e-6, 5e-5, 8e-6, "launch_s where a decode kernel takes single queries"),
    Constant("cta_s", "s", 1e-8, 2e-5, 2e-6, "first loads and last stores of a tile", "1/clock"),
    Constant("tensor_share", "", 0.02, 1.2, 0.7, "share of the tensor peak inside a tile", "format"),
    Constant("wide_share", "", 0.3, 1.5, 0.9, "relative rate for heads of more than 128 elements"),
    Constant("solo_share", "", 0.3, 1.0, 0.9, "relative rate of a tile alone on a processor"),
    Constant("softmax_share", "", 0.05, 2.5, 1.0, "share of the peaks that exponentials' warps issue at"),
    Constant("dram_share", "", 0.2, 1.0, 0.8, "share of the memory bandwidth", "stream"),
    Constant("l2_share", "", 0.1, 1.0, 0.4, "share of the L2 bandwidth", "slices dies"),
    Constant("l2_fill", "", 0.2, 1.0, 0.6, "share of the L2 that keeps tensors between two kernels", "whole"),
    Constant("sharpness", "", 1.0, 20.0, 2.0, "overlap of copies and arithmetic (p-norm exponent)"),
    Constant("pack_share", "", 0.05, 2.0, 1.0, "bandwidth of the append over the kernel's own", "engine"),
    Constant("token_s", "s", 1e-8, 1e-5, 5e-7, "a thread block that appends one token", "1/clock engine"),
    Constant("sustained", "", 0.0, 0.3, 0.05, "clock lost under the power limit"),
    Constant("tail", "", 0.0, 1.0, 0.7, "share of the last wave's idle processors left idle"),
    Constant("order", "", 0.0, 1.0, 0.5, "exposed share of a long tile's excess time"),
)
# Of heads that differ in size and number, and of what libraries do around their kernels.
AROUND = (
    Constant("fill_s", "s", 1e-9, 2e-5, 5e-7, "of cta_s in tiles whose rows are all queries", "1/clock"),
    Constant(
        "generic_s", "s", 1e-8, 2e-5, 5e-7, "rotating part of a head, of TensorRT-LLM's kernels", "engine"
    ),
    Constant("generic_share", "", 0.1, 2.0, 0.9, "rotate_share of the same, of the usual one's", "engine"),
    Constant(
        "rotate_share", "", 0.05, 1.0, 0.4, "share of the L2 ports, rotating and appending", "slices engine"
    ),
    Constant("sequence_s", "s", 1e-11, 1e-7, 1e-9, "scheduling one more sequence of the batch", "1/clock"),
)
# Before Hopper a warp waits for its products (mma.sync), so that what it does between them adds to them: they
# alone reach what matrix products do. With the exponentials' start both reach 0.73 of an A100's peak and 0.88
# of a GeForce's, which multiplies half as fast a clock; FlashAttention 2 measured 0.73 (arXiv:2307.08691) and
# 0.89 to 0.91 (an RTX 5090, gau-nernst.github.io/fa-5090).
SYNC_SHARE = 0.95
SYNC = (
    Constant(
        "sync_share", "", 0.9, 1.0, SYNC_SHARE, "share of the tensor peak before Hopper, of products alone"
    ),
    Constant("between_share", "", 0.05, 2.5, 0.8, "softmax_share before Hopper, with all between products"),
)
WINDOW = Constant("window_s", "s", 1e-8, 2e-5, 1e-7, "masking both edges of a window in a tile", "1/clock")
COMBINE = Constant("combine_s", "s", 1e-8, 2e-5, 2e-6, "combining partial results of tiles split over keys")
# Of heads that TensorRT-LLM leaves to Ampere's kernel on Blackwell. It begins with the same kernel's of
# prompts on an A100.
FALLBACK = Constant("fallback_share", "", 0.05, 1.0, 0.27, "between_share of Ampere's kernel on later GPUs")
PADDED = Constant("padded_cta_s", "s", 1e-9, 2e-5, 1e-7, "of cta_s where a tile pads its heads", "1/clock")


class PrefillModel(KernelModel):
    """Tiles of queries in waves over the processors, each against the keys that its mask leaves."""

    kinds: ClassVar[tuple[str, ...]] = ("attention_prefill",)
    why: ClassVar[Mapping[str, str]] = WHY
    family: ClassVar[tuple[str, ...]] = ("n_heads", "n_kv_heads", "head_dim", "window")
    start_weight: ClassVar[float] = 1.0  # known roughly from other kernels; loose ones trade places
    most_rows: ClassVar[int] = 600
    few_rows_speak: ClassVar[bool] = True
    starts_alike: ClassVar[bool] = True

    def source(self, kernel: str) -> str | None:
        """Triton's kernels stand in for each other alone."""
        return compiled(kernel)

    def renamed(self, kernel: str, one: Gpu, other: Gpu) -> bool:
        """FlashInfer's are of FlashAttention 2's kind, but on Blackwell with tensor memory.

        There vLLM's is trtllm-gen and SGLang's CUTLASS (flashinfer_backend.py). TensorRT-LLM's kernels around
        prompts are the same everywhere, and weigh more than what differs.
        """
        return kernel in FLASHINFER and (one.generation >= 10) != (other.generation >= 10)

    def prior_of(self, kernel: str) -> str | None:
        """Its library; but they are carried by kernel: libraries change more by generation."""
        return library(kernel, OF_ATTENTION)

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Ampere has kernels that move heads into tiles; later generations some that pad or fall back."""
        if gpu.generation < 9:
            return (*waiting(CONSTANTS), *AROUND, SWAP)
        return (*CONSTANTS, *AROUND, WINDOW, COMBINE, PADDING, *((FALLBACK,) if gpu.generation >= 10 else ()))

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Ideal roofline, what the kernel reaches of it, waves, copies that do not hide, other kernels."""
        kernel = kernel_of(rows)
        shape = Shape.of(rows)
        if kernel == "triton":  # SGLang's loop masks what lies before the window instead of skipping it
            shape = Shape.of({**rows, "window": np.zeros_like(shape.window)})
        parts = prefill_parts(shape, tiling_of(kernel, gpu, dtype, shape.key_dim), kernel, gpu, dtype, c)
        if gpu.generation < 9:
            swapped = (shape.q_len == 1) & (shape.group > 1) & (shape.batch > 1)
            around = swapped * c["swap_s"] * ("vllm" in kernel)
        else:
            around = (
                (np.log2(shape.key_dim) % 1 > 0) * c["padding_s"] * (kernel == "fa3" or "triton" in kernel)
            )
        appended = appends(rows) | ~shape.causal  # encoders keep no cache
        around = around + conversions(kernel, dtype) * START_S - np.where(appended, 0.0, APPEND_S)
        launch = np.maximum(parts["launch"] + around, 0.0)
        return {**parts, "append": np.where(appended, parts["append"], 0.0), "launch": launch}


class EncoderModel(PrefillModel):
    """The same without a cache or windows; encoders have heads of sizes that kernels pad."""

    kinds: ClassVar[tuple[str, ...]] = ("attention_encoder",)
    like: ClassVar[str] = "attention_prefill"

    def prior_of(self, kernel: str) -> str | None:
        """Of three kernels on a device, all."""
        return None

    def source(self, kernel: str) -> str | None:
        """Its library: FlashAttention 3 and 4 stand in for each other."""
        return library(kernel, OF_ATTENTION) if kernel else None

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Those of prompts, but for what a cache and windows cost."""
        if gpu.generation < 9:
            return (*waiting(CONSTANTS), *AROUND, SWAP)
        return (*CONSTANTS, *AROUND, PADDED, PADDING, *((FALLBACK,) if gpu.generation >= 10 else ()))


def waiting(usual: tuple[Constant, ...]) -> tuple[Constant, ...]:
    """The constants of kernels whose warps wait for their products, for those of later kernels."""
    return (*(c for c in usual if c.name not in ("tensor_share", "softmax_share")), *SYNC)


def prefill_parts(
    shape: Shape, tiling: Tiling, kernel: str, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]
) -> dict[str, Floats]:
    """The parts of any kernel that tiles queries."""
    balanced, makespan = _tiles_s(shape, tiling, kernel, gpu, dtype, c)
    hot = 1 + c["sustained"] * makespan / (makespan + HEAT_S)
    balanced, makespan = balanced * hot, makespan * hot
    queries = shape.batch * shape.q_len * shape.heads
    cached = shape.batch * shape.kv_len * shape.kv_heads * shape.cached_dim * element(dtype.kv)
    out = queries * shape.value_dim * element(dtype.outputs)
    moved = queries * shape.key_dim * element(dtype.inputs) + out + cached
    miss = missed(moved, gpu.l2_bytes * c["l2_fill"])
    per_byte = miss / (gpu.dram_byte_per_s * c["dram_share"])
    per_byte = per_byte + (1 - miss) / (gpu.l2_byte_per_s * c["l2_share"])
    overlapped = smooth_max([makespan, moved * per_byte], c["sharpness"])
    appends = shape.causal | kernel.startswith("torch_flow")  # encoders keep no cache, but TensorRT-LLM packs
    ideal = np.minimum(shape.ideal_s(gpu, dtype), overlapped)  # a warm L2 can beat the memory's roofline
    waited = np.maximum(makespan, ideal)
    # Of a window half a step is added to every tile, which the longest one may not have.
    reached = np.minimum(np.maximum(balanced, ideal), waited)
    return {
        "ideal": ideal,
        "reached": reached - ideal,
        "waves": waited - reached,
        "copies": np.maximum(overlapped, waited) - waited,
        "append": appends * _append_s(shape, kernel, gpu, dtype, c, per_byte / c["pack_share"]),
        "schedule": scheduled(shape, kernel, gpu) * (START_S + shape.batch * c.get("sequence_s", 0.0)),
        "launch": np.where(shape.q_len == 1, c["single_launch_s"], c["launch_s"]),
    }


def _tiles_s(
    shape: Shape, tiling: Tiling, kernel: str, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]
) -> tuple[Floats, Floats]:
    """All tiles' time spread evenly over the processors, and the time until the last one ends."""
    packed = np.full(shape.q_len.shape, tiling.packed)
    if kernel.startswith("vllm"):  # a single query runs in the decode kernel, which packs
        packed = packed | (shape.q_len == 1)
    together = np.where(packed, shape.group, 1.0)
    positions = tiling.rows / together
    count = ceil_div(shape.q_len, positions)
    keys, longest = keys_per_tile(shape, positions, count, tiling.keys)
    peak = gpu.peak("fp8" if _multiplies_in_kv(kernel, gpu, dtype) else compute_dtype(dtype.inputs))
    padded = heads_computed(shape, kernel, gpu)
    rate = np.where(padded.key_dim > 128, c["wide_share"], 1.0)
    if gpu.generation < 9:
        each_s = row_s(padded, gpu, peak, c["sync_share"], c["between_share"], overlap=1.0)
    else:
        beside = emulated(kernel, gpu)
        each_s = row_s(
            padded,
            gpu,
            peak,
            c["tensor_share"],
            c["softmax_share"],
            overlap=IN_TURN if takes_turns(kernel, gpu) else OVERLAP,
            exponentials=1 - beside,
            instructions=vector_instructions(padded, tiling, gpu) + beside * POLYNOMIAL,
        )
    if kernel == "torch_flow" and gpu.generation >= 10 and FALLBACK.name in c:  # latents have no such heads
        single = gpu.processors * gpu.clock_hz * WARP_FLOP_PER_CLOCK
        instead = row_s(padded, gpu, single, SYNC_SHARE, c[FALLBACK.name], overlap=1.0)
        each_s = np.where(falls_back(shape.key_dim), instead, each_s)
    step = tiling.rows * each_s / rate
    filled = np.minimum(shape.q_len / positions, 1.0)
    start_s = c["cta_s"] + filled * c.get("fill_s", 0.0) + shape.windowed * c.get(WINDOW.name, 0.0)
    start_s = start_s + (padded.key_dim > shape.key_dim) * c.get(PADDED.name, 0.0)
    waves = shape.batch * shape.heads / together * count / gpu.processors
    parts = _splits(kernel, waves, longest)
    mean_s, longest_s = start_s + keys / count * step, start_s + longest / parts * step / c["solo_share"]
    longest_s = longest_s + (parts > 1) * c.get(COMBINE.name, 0.0)
    balanced = waves * mean_s
    idle = (np.ceil(waves) - waves) * mean_s
    makespan = balanced + c["tail"] * idle + c["order"] * (longest_s - mean_s)
    return balanced, np.maximum(makespan, longest_s)


def takes_turns(kernel: str, gpu: Gpu) -> bool:
    """Whether a warp group on Hopper waits for its own products: TensorRT-LLM's does.

    fmha_v2 (warpspec/compute.h); "default" are its prompts of latent attention.
    """
    return gpu.generation == 9 and kernel in ("torch_flow", "default")


def vector_instructions(shape: Shape, tiling: Tiling, gpu: Gpu) -> Any:
    """Of the warps of a softmax for each exponential, besides it.

    Maximum, scaling, sum and half a conversion, and on Hopper the results' rescaling once a step, of 256
    columns at most, as further ones have warps of their own (hopper/softmax.h, LargeHeadDimV). On Blackwell
    two elements an instruction and three to a maximum, and others rescale what seldom needs it
    (flash_attn/cute/softmax.py).
    """
    rescaled = np.minimum(shape.value_dim, RESCALED) / tiling.keys
    return PACKED_SOFTMAX if gpu.generation >= 10 else SOFTMAX + rescaled


def emulated(kernel: str, gpu: Gpu) -> float:
    """Share of the exponentials that FlashAttention 4 computes as polynomials (flash_fwd_sm100.py).

    A quarter of three in four fragments of a row on sm100; none on sm103, whose units are twice as fast.
    """
    return 3 / 16 if kernel in FLASH_4 and gpu.capability == 100 else 0.0


def _splits(kernel: str, waves: Floats, longest: Floats) -> Floats:
    """Parts of the keys that FlashAttention 3 gives to processors that would have no tile.

    Its heuristic splits more than four blocks of keys where tiles fill less than 0.8 of the processors.
    """
    splits = np.clip(np.floor(1 / waves), 1.0, longest / SPLIT_KEYS)
    return np.where((waves < SPLIT_BELOW) & (longest > 4 * SPLIT_KEYS) & (kernel in PAGED), splits, 1.0)


def _multiplies_in_kv(kernel: str, gpu: Gpu, dtype: Dtypes) -> bool:
    """vLLM, but for its Triton kernel, and TensorRT-LLM quantise queries too and multiply in fp8.

    FlashAttention 2 and FlashInfer's own kernels, which vLLM runs before Hopper, multiply in 16 bits.
    """
    multiplies = kernel.startswith("torch_flow") or (kernel.startswith("vllm_fl") and gpu.generation >= 9)
    return dtype.kv == "fp8" and multiplies and "fp8" in gpu.tensor_flop_per_s


def _append_s(
    shape: Shape, kernel: str, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float], per_byte: Floats
) -> Floats:
    """The kernel before: new keys and values into the cache; TensorRT-LLM rotates and moves queries too."""
    tokens = shape.batch * shape.q_len
    new, queries = tokens * shape.kv_heads * shape.cached_dim, tokens * shape.heads * shape.key_dim
    given, stored = element(dtype.outputs), element(dtype.kv)
    least = LEAST_THREADS if kernel in OF_SGLANG else 1.0
    threads = np.clip(shape.kv_heads * shape.key_dim, least, APPEND_THREADS)
    blocks_s = tokens * threads / gpu.resident_threads * c["token_s"] / gpu.processors
    if kernel.startswith("torch_flow") and "rotate_share" in c:  # latents have none
        each = 3 * given + shape.causal * ROTATION_BYTES + element(dtype.inputs)
        return np.asarray(blocks_s + _rotated_s(shape, queries * each + new * stored, gpu, c))
    moved = new * (given + stored)
    if conversions(kernel, dtype):  # kernels that narrow come first
        narrowed = new + queries * (kernel == "trtllm_mha")
        moved = narrowed * (given + stored) + new * 2 * stored
    return np.asarray(blocks_s + moved * per_byte)


def _rotated_s(shape: Shape, moved: Floats, gpu: Gpu, c: Mapping[str, float]) -> Floats:
    """TensorRT-LLM's kernel, by what passes the processors' ports to the L2 (applyBiasRopeUpdateKVCache).

    A thread of a query loads its key and value with it, and the sines and cosines: once for all heads from
    memory, for each of them from the L2.
    """
    generic = shape.key_dim != ROTATED
    share = c["rotate_share"] * np.where(generic, c["generic_share"], 1.0)
    return np.asarray(moved / (gpu.l2_byte_per_s * share) + generic * c["generic_s"])
