"""Attention of one query per sequence over its KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.attention import (
    APPEND_S,
    FLASH_3,
    OVERLAP,
    START_S,
    WHY,
    Shape,
    appends,
    combines_apart,
    compiled,
    conversions,
    element,
    missed,
    of_flashinfer,
    row_s,
    scheduled,
)
from roofline.physics.base import Constant, ceil_div, smooth_max
from roofline.physics.libraries import kernel_of
from roofline.physics.model import KernelModel
from roofline.physics.splits import (
    TRITON_HEADS,
    even_splits,
    flash_2_splits,
    flash_3_keys,
    flash_3_rows,
    flash_3_splits,
    flashinfer_splits,
    flashinfer_tile,
    plain_splits,
    segments,
    triton_splits,
    xqa_splits,
)
from workloads.dtypes import compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

BLOCK_KEYS = 128.0  # that a thread block loads at once; also the step to which pages are rounded
TILE_ROWS = 128.0  # query heads of one KV head that a thread block takes, at most
GROUPED_HEADS = 32.0  # of one group that TensorRT-LLM's grouped kernels take (XQA; trtllm-gen on Blackwell)
GROUPED_SHARE = 0.25  # of the processors that it must fill, at a block per 128 keys, to be taken
OWN_KEYS = 64.0  # of a block of XQA's kernel for Hopper and fp8
TRITON_STEPS = {"triton": 32.0, "vllm_triton_attn": 16.0}  # keys of a step of Triton's kernels
MOST_SPLITS = {"vllm_flash_attn_fa3": 32.0}  # that vLLM lets FlashAttention 3 make under a CUDA graph
# Of FlashInfer, which widens an element of 8 bits by 13 instructions for four, and reorders these by two or
# three shuffles, each as long as four instructions (frag_layout_swizzle_16b_to_8b, vec_cast).
WIDENING = 6.0
ROTATED = 128.0  # elements of a head that the measured rows rotate, of smaller heads too

CONSTANTS = (
    Constant("launch_s", "s", 1e-6, 5e-5, 8e-6, "launches of the consecutive kernels, and the append"),
    Constant("cta_s", "s", 1e-7, 2e-5, 2e-6, "first loads and last stores of a thread block", "1/clock"),
    Constant("head_s", "s", 1e-10, 1e-6, 1e-8, "of cta_s for each query head of 128 elements", "1/clock"),
    Constant("block_s", "s", 1e-8, 2e-5, 3e-7, "latency of one block of keys of 128 elements", "1/clock"),
    Constant(
        "tile_share", "", 0.02, 2.0, 0.5, "share of tensor and special-function peaks inside a tile", "format"
    ),
    Constant("dram_share", "", 0.3, 1.0, 0.9, "share of the memory bandwidth", "stream"),
    Constant("l2_share", "", 0.1, 1.0, 0.5, "share of the L2 bandwidth", "slices dies"),
    Constant("l2_fill", "", 0.2, 1.0, 0.6, "share of the L2 that keeps the cache between steps", "whole"),
    Constant("sharpness", "", 1.0, 20.0, 3.0, "overlap of latency and the stream of keys (p-norm exponent)"),
    Constant("most_splits", "", 4.0, 256.0, 48.0, "maximum thread blocks per sequence and head"),
    Constant("split_keys", "", 32.0, 1024.0, 150.0, "minimum keys per split"),
    Constant("combine_s", "s", 1e-8, 2e-5, 1e-6, "combining the splits, but for a launch of its own"),
    Constant("split_s", "s", 1e-10, 1e-6, 5e-8, "combining one split", "1/clock"),
    Constant("sequence_s", "s", 1e-11, 1e-7, 1e-9, "scheduling one more sequence of the batch", "1/clock"),
    Constant("window_s", "s", 1e-8, 1e-5, 1e-7, "masking the edges of a window"),
)
# A block of keys lasts block_s and its products, of as many rows nearly always: measured times tell the sum.
# Prompts tell the products: FlashAttention 2 reaches 0.73 of an A100's peak (arXiv:2307.08691), with
# starts and ends of tiles.
TILE_SHARE = Constant(
    "tile_share", "", 0.6, 1.0, 0.75, "share of the peaks inside a tile before Hopper", "format"
)
# Ampere's FlashAttention 2; TensorRT-LLM's kernel of one thread block per query head; FlashAttention 3.
# Two copies: queries into their rows and results out of them (mha_varlen_fwd).
SWAP = Constant("swap_s", "s", 1e-8, 2e-5, 2 * START_S, "copies that gather grouped heads into one tile")
PLAIN = (
    Constant("plain_launch_s", "s", 1e-6, 5e-5, 8e-6, "launch_s of the kernel without grouped heads"),
    Constant("plain_cta_s", "s", 1e-7, 2e-5, 2e-6, "cta_s of the same", "1/clock"),
    Constant("plain_block_s", "s", 1e-8, 2e-5, 2e-6, "block_s of the same", "1/clock"),
    Constant("plain_combine_s", "s", 1e-8, 2e-5, 2e-6, "combine_s of the same, however many splits"),
    Constant("resident", "", 1.0, 8.0, 2.0, "resident thread blocks of XQA or Triton per processor"),
)
FAR = Constant("far", "", 0.0, 2.0, 0.5, "extra latency of Triton's blocks from memory, relative")
SIZED = Constant("dim_s", "s", 1e-9, 2e-5, 5e-7, "of cta_s for heads of 128 elements, by size", "1/clock")
ROTATE = Constant("rotate_s", "s", 1e-8, 2e-5, 2e-6, "a kernel that rotates heads where XQA cannot")
# Since Hopper.
WIDE = Constant("wide_share", "", 0.3, 1.2, 0.9, "relative rate for heads of more than 128 elements")
PADDING = Constant(
    "padding_s", "s", 1e-8, 2e-5, 1e-6, "extra kernels for head sizes that are not powers of two", "engine"
)


@dataclass(frozen=True)
class Grid:
    """How a kernel lays its work over thread blocks, one array each."""

    tiles: Floats  # thread blocks per sequence and KV head before splitting
    rows: Floats  # that a tile computes, used or not
    heads: Floats  # queries that a tile loads and results that it stores
    splits: Floats  # of a sequence
    launch_s: Any
    cta_s: Any
    block_s: Any
    combine_s: Any
    split_s: Any
    keys: Any = BLOCK_KEYS  # of one step of a thread block's loop
    resident: Any = 1.0  # thread blocks that a processor holds at once
    widening: float = 0.0  # instructions for each element of the cache
    shared_s: Any = 0.0  # that operands of one step pass shared memory, while nothing else is done


class DecodeModel(KernelModel):
    """Thread blocks over (sequence, KV head, split), a stream of keys and values, and the combination."""

    kinds: ClassVar[tuple[str, ...]] = ("attention_decode",)
    why: ClassVar[Mapping[str, str]] = WHY
    family: ClassVar[tuple[str, ...]] = ("n_heads", "n_kv_heads", "head_dim", "window")
    start_weight: ClassVar[float] = 1.0  # known roughly from other kernels; loose ones trade places
    loose: ClassVar[bool] = True  # descents of like losses end apart by what another GPU's times depend on
    most_rows: ClassVar[int] = 600
    few_rows_speak: ClassVar[bool] = True
    starts_alike: ClassVar[bool] = True

    def prior_of(self, kernel: str) -> str | None:
        """Triton's kernels share theirs: of shorter steps and smaller tiles than all others."""
        return compiled(kernel)

    def source(self, kernel: str) -> str | None:
        """Triton's kernels stand in for each other alone, and FlashInfer's own where one is known."""
        return "FlashInfer" if kernel == "flashinfer" else compiled(kernel)

    def alias(self, kernel: str, gpu: Gpu, dtype: str) -> str:
        """FlashInfer's own kernel, whichever engine runs it."""
        return "flashinfer" if of_flashinfer(kernel, gpu) else kernel

    def borrowed(
        self, values: Mapping[str, float], lender: tuple[str, Dtypes], borrower: tuple[str, Dtypes]
    ) -> Mapping[str, float]:
        """FlashInfer's own kernel multiplies by mma.sync and in 16 bits: its share of a peak is its own."""
        if lender[0] != "flashinfer" or borrower[0] == "flashinfer":
            return values
        return {name: value for name, value in values.items() if name != TILE_SHARE.name}

    def renamed(self, kernel: str, one: Gpu, other: Gpu) -> bool:
        """TensorRT-LLM's is XQA before Blackwell, vLLM's under FlashInfer its own; trtllm-gen's on it."""
        blackwell = [gpu.generation >= 10 for gpu in (one, other)]
        return kernel in ("torch_flow", "vllm_flashinfer") and blackwell[0] != blackwell[1]

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Some generations have kernels besides that their libraries take for some shapes."""
        since = (SWAP,) if gpu.generation < 9 else (WIDE, PADDING)
        fused = (ROTATE,) if gpu.generation == 9 and dtype.kv == "fp8" else ()
        known = {TILE_SHARE.name: TILE_SHARE} if gpu.generation < 9 else {}
        return (*(known.get(c.name, c) for c in CONSTANTS), SIZED, *PLAIN, FAR, *since, *fused)

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Ideal roofline, what the stream reaches of it, waves, splits, and the kernels around."""
        kernel, shape = kernel_of(rows), Shape.of(rows)
        grid = _grid(shape, kernel, gpu, dtype, c)
        if "splits" in rows:  # at most: of a kernel that splits less than the measured ones
            grid = replace(grid, splits=np.minimum(grid.splits, rows["splits"]))
        before = scheduled(shape, kernel, gpu)
        # FlashAttention 3 and XQA bring queries into 8 bits, too. Blackwell's tiles are too small to tell.
        narrow = kernel in (*FLASH_3, "torch_flow") and dtype.kv == "fp8" and gpu.generation == 9
        read = dtype._replace(inputs="fp8") if narrow else dtype
        parts = decode_parts(shape, grid, gpu, read, c, before)
        beside = (conversions(kernel, dtype) + before) * START_S - np.where(appends(rows), 0.0, APPEND_S)
        parts["launch"] = np.maximum(parts["launch"] + beside, 0.0)
        if gpu.generation < 9:
            swapped = (shape.group > 1) & (shape.kv_heads > 1) & (shape.batch > 1)  # else a view serves
            parts["launch"] = parts["launch"] + swapped * c["swap_s"] * (kernel == "vllm_flash_attn")
        elif kernel in ("fa3", "triton"):  # SGLang's
            parts["launch"] = parts["launch"] + (np.log2(shape.key_dim) % 1 > 0) * c["padding_s"]
        return parts


def _grid(shape: Shape, kernel: str, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> Grid:
    group, seen = shape.group, np.minimum(shape.kv_len, shape.window)
    tiles, rows = ceil_div(group, TILE_ROWS), tile_rows(group, gpu)
    units = shape.batch * shape.kv_heads * tiles
    splits = even_splits(units, seen, gpu, c)
    keys = np.full_like(seen, BLOCK_KEYS)
    if kernel in FLASH_3 and gpu.generation < 10:
        keys, rows = flash_3_keys(shape, gpu, dtype), flash_3_rows(shape, gpu, dtype)
        splits = flash_3_splits(shape, ceil_div(seen, keys), gpu, MOST_SPLITS.get(kernel, 0.0))
        if gpu.generation < 9:
            keys = np.where(splits > 1, keys, flash_3_keys(shape, gpu, dtype, split=False))
    if kernel == "vllm_flash_attn":  # FlashAttention 2 splits only where it swaps heads into rows
        keys = np.where(shape.key_dim > 128, 64.0, np.where(shape.key_dim > 64, 128.0, 256.0))
        splits = np.where(group == 1, 1.0, flash_2_splits(shape, ceil_div(shape.kv_len, keys), gpu))
    widening = 0.0
    resident: Any = c["resident"] if kernel in TRITON_STEPS else 1.0
    if of_flashinfer(kernel, gpu):
        rows, resident = flashinfer_tile(group, gpu, dtype)
        widening = WIDENING * (dtype.kv == "fp8" and dtype.inputs != "fp8")
        splits = flashinfer_splits(units, seen, gpu)
    if kernel in TRITON_STEPS:
        step = TRITON_STEPS[kernel]
        keys = np.full_like(seen, step)
        splits = triton_splits(shape, seen, gpu) if kernel == "triton" else segments(shape, seen, step)
        tiles, rows = ceil_div(group, TRITON_HEADS), np.full_like(seen, TRITON_HEADS)
    heads = np.minimum(group, TILE_ROWS)
    starts = (c[name] for name in ("launch_s", "cta_s", "block_s", "combine_s", "split_s"))
    grid = replace(Grid(tiles, rows, heads, splits, *starts), keys=keys, resident=resident, widening=widening)
    grid = replace(grid, combine_s=grid.combine_s + combines_apart(kernel, gpu) * START_S)
    if kernel in TRITON_STEPS:
        far = c["far"] * missed(cache_bytes(shape, dtype), gpu.l2_bytes * c["l2_fill"])
        grid = replace(grid, block_s=grid.block_s * (1 + far))
    if kernel == "torch_flow":
        return _tensorrt_grid(shape, seen, grid, gpu, dtype, c)
    return grid


def _tensorrt_grid(
    shape: Shape, seen: Floats, grid: Grid, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]
) -> Grid:
    """TensorRT-LLM: a kernel that packs the heads of a KV head, else one of one query head.

    Before Blackwell the first is XQA. Its dispatcher takes it where heads share a KV head and thread blocks
    of 128 keys, inside the window or not, would fill a quarter of the processors, and always on Hopper where
    the cache is fp8, for which it has a kernel of its own. Blackwell's takes all groups up to GROUPED_HEADS.
    """
    group, units = shape.group, shape.batch * shape.kv_heads
    pieces = np.maximum(1.0, np.floor(shape.kv_len / BLOCK_KEYS))
    own = gpu.generation >= 10 or (dtype.kv == "fp8" and gpu.generation >= 9)
    plain = group > GROUPED_HEADS
    if gpu.generation < 10:
        plain |= group == 1
    if not own:
        plain |= units * pieces < GROUPED_SHARE * gpu.processors
    rows = np.maximum(8.0 if own else 16.0, np.exp2(np.ceil(np.log2(group))))
    grouped = xqa_splits(shape, gpu)
    if own:  # whose thread blocks outside the window end at once
        grouped = np.minimum(grouped, ceil_div(seen, OWN_KEYS))
    launch_s = grid.launch_s + (own & (shape.key_dim < ROTATED)) * c.get(ROTATE.name, 0.0)
    if gpu.generation >= 10:
        # trtllm-gen: the kernel before it, which appends, has another before it, for lengths.
        rows, grouped, launch_s = grid.rows, grid.splits, launch_s + START_S
    elif own:  # rotates and appends by itself
        launch_s = np.maximum(launch_s - APPEND_S, 0.0)
    alone, step, beside = plain_splits(shape, gpu)
    return Grid(
        tiles=np.where(plain, group, grid.tiles),
        rows=np.where(plain, 1.0, rows),
        heads=np.where(plain, 1.0, rows if gpu.generation < 10 else grid.heads),
        splits=np.where(plain, alone, grouped),
        launch_s=np.where(plain, c["plain_launch_s"], launch_s),
        cta_s=np.where(plain, c["plain_cta_s"], grid.cta_s),
        block_s=np.where(plain, c["plain_block_s"] * BLOCK_KEYS / step, grid.block_s),
        combine_s=np.where(plain, c["plain_combine_s"], grid.combine_s),
        split_s=np.where(plain, 0.0, grid.split_s),
        keys=np.where(plain, step, grid.keys),
        resident=np.where(plain, beside, c["resident"] if gpu.generation < 10 else 1.0),
    )


def tile_rows(heads: Floats, gpu: Gpu) -> Floats:
    """Rows of the product that hold so many query heads: tensor cores before Blackwell take 64, padded."""
    least = 8.0 if gpu.generation >= 10 else 64.0
    return np.minimum(np.maximum(least, np.exp2(np.ceil(np.log2(heads)))), TILE_ROWS)


def decode_parts(
    shape: Shape, grid: Grid, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float], scheduled: Any = 1.0
) -> dict[str, Floats]:
    """The parts of any kernel that streams a cache past one query; `scheduled` is 0 where nothing is."""
    units = shape.batch * shape.kv_heads * grid.tiles
    splits = grid.splits
    start_s = grid.cta_s + (c.get(SIZED.name, 0.0) + c["head_s"] * grid.heads) * shape.key_dim / 128
    latency = _latency_s(shape, grid, units, start_s, gpu, dtype, c)
    stream = _stream_s(shape, grid, gpu, dtype, c)
    rate = np.where(shape.key_dim > 128, c.get(WIDE.name, 1.0), 1.0)
    latency, stream = latency / rate, stream / rate
    attended = smooth_max([latency, stream], c["sharpness"])
    ideal = np.minimum(shape.ideal_s(gpu, dtype), attended)  # a warm L2 can beat the memory's roofline
    reached = np.maximum(stream, ideal)
    return {
        "ideal": ideal,
        "reached": reached - ideal,
        "waves": np.maximum(attended, reached) - reached,
        "combine": np.clip(splits - 1, 0.0, 1.0) * (grid.combine_s + grid.split_s * splits),
        "schedule": shape.batch * c["sequence_s"] * scheduled + shape.windowed * c["window_s"],
        "launch": grid.launch_s + start_s + 0 * ideal,
    }


def _latency_s(
    shape: Shape, grid: Grid, units: Floats, start_s: Floats, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]
) -> Floats:
    """Waves of thread blocks where memory is no limit; the first one's start counts as launch."""
    blocks = ceil_div(np.minimum(shape.kv_len, shape.window), grid.keys) + shape.windowed
    walked = np.maximum(blocks / grid.splits, 1.0)
    peak = gpu.peak(compute_dtype(dtype.inputs))
    share, overlap = c["tile_share"], 1.0 if gpu.generation < 9 else OVERLAP
    arithmetic = grid.rows * grid.keys * row_s(shape, gpu, peak, share, share, overlap)
    elements = grid.keys * shape.cached_dim * grid.widening * gpu.processors / (gpu.vector_flop_per_s / 2)
    arithmetic = arithmetic + elements + grid.shared_s
    each = units * grid.splits / gpu.processors
    waves, together = np.ceil(each / grid.resident), np.clip(each, 1.0, grid.resident)  # sharing a processor
    block_s = grid.block_s * grid.keys / BLOCK_KEYS * shape.cached_dim / 256
    return np.asarray((waves - 1) * start_s + waves * walked * (block_s + arithmetic * together))


def cache_bytes(shape: Shape, dtype: Dtypes) -> Floats:
    """Of the keys and values that are seen."""
    seen = np.minimum(shape.kv_len, shape.window)
    return shape.batch * seen * shape.kv_heads * shape.cached_dim * element(dtype.kv)


def _stream_s(shape: Shape, grid: Grid, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> Floats:
    """Keys and values once from memory, and once per tile from the L2, which keeps small caches warm."""
    cache = cache_bytes(shape, dtype)
    queries = shape.batch * shape.heads * (shape.key_dim + shape.value_dim) * element(dtype.outputs)
    moved = cache + queries
    from_memory = moved * missed(cache, gpu.l2_bytes * c["l2_fill"]) / (gpu.dram_byte_per_s * c["dram_share"])
    return np.maximum(from_memory, moved * grid.tiles / (gpu.l2_byte_per_s * c["l2_share"]))
