"""Into how many parts a library cuts a sequence's keys, as its source says: rules, not constants."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from roofline.physics.base import ceil_div

if TYPE_CHECKING:
    from roofline.physics.attention import Shape
    from roofline.physics.base import Dtypes, Floats, Gpu

PIECE_KEYS = 128.0  # of TensorRT-LLM's and FlashInfer's shortest part
FLASHINFER_BLOCKS = 2.0  # a processor that FlashInfer plans for (num_blocks_per_sm)
TENSOR_HEADS = 4.0  # of a KV head, from which FlashInfer decodes on tensor cores
# Of a block on vector units: threads, and two stages of keys and values of 8 elements a thread and key, of
# four keys where heads are not grouped (BatchDecodeWithPagedKVCacheDispatched).
VECTOR_THREADS, VECTOR_BYTES = 128.0, 2 * 2 * 128.0 * 8 * 2
GROUPED_WAVES = 8.0  # thread blocks per processor up to which XQA splits sequences
PLAIN_BLOCKS = 4.0  # of 256 threads, that a processor's registers hold of the kernel without grouped heads
FLASH_MOST = 128.0  # parts that FlashAttention makes by itself
TRITON_MOST, TRITON_LEAST = 8.0, 32.0  # splits that SGLang's Triton kernel makes; keys of the shortest
TRITON_HEADS = 16.0  # of one group that a block of Triton's kernels takes
LATENT_LEAST = 512.0  # keys of a part in vLLM's Triton kernel for latents
SEGMENTS, SEGMENTED = 16.0, 128.0  # of a sequence in vLLM's Triton kernel; blocks up to which it makes them
FULL_ENOUGH, BARELY_FULL = 0.8, 0.85  # waves that are not split; of the fullest last wave, that will do


def even_splits(units: Floats, seen: Floats, gpu: Gpu, c: Mapping[str, float]) -> Floats:
    """As many splits as fill the processors, none shorter than `split_keys`."""
    most = np.minimum(c["most_splits"], np.maximum(1.0, seen / c["split_keys"]))
    return np.asarray(np.clip(gpu.processors / units, 1.0, most))


def flash_2_splits(shape: Shape, blocks: Floats, gpu: Gpu) -> Floats:
    """Parts of a sequence by FlashAttention 2's rule (num_splits_heuristic), for two blocks a processor."""
    return _fewest_splits(shape.batch * shape.kv_heads, blocks, 2 * gpu.processors, apart=True)


def flash_3_keys(shape: Shape, gpu: Gpu, dtype: Dtypes, split: bool = True) -> Floats:
    """Keys of a block of FlashAttention 3 on a cache of pages (hopper/tile_size.h).

    Before Hopper blocks of sequences that are not split have other sizes than those of parts, by which the
    library counts before it knows whether it splits.
    """
    dim = shape.key_dim
    if gpu.generation < 9:
        if split:
            return np.select([dim <= 64, dim <= 96, dim <= 128], [80.0, 48.0, 112.0], 64.0)
        usual = 64.0 if gpu.capability == 80 else 128.0  # with eight warps instead of four
        return np.select([dim <= 64, dim <= 96, dim <= 128, dim <= 192], [112.0, 64.0, usual, 64.0], 96.0)
    if dtype.kv == "fp8":
        return np.where(dim > 192, 128.0, 160.0)
    return np.where(dim > 192, 80.0, np.where(dim > 128, 96.0, 128.0))


def flash_3_rows(shape: Shape, gpu: Gpu, dtype: Dtypes) -> Floats:
    """Rows of a tile of FlashAttention 3, used or not: 64 where one warp group does (hopper/tile_size.h)."""
    if gpu.generation < 9:
        return np.full_like(shape.key_dim, 128.0)
    alone = (shape.key_dim <= 128) & (shape.group <= 64) & (dtype.kv != "fp8")
    return np.where(alone, 64.0, 128.0)


def flash_3_splits(shape: Shape, blocks: Floats, gpu: Gpu, most: float) -> Floats:
    """Parts of a sequence by FlashAttention 3's rules (hopper/heuristics.h, flash_prepare_scheduler.cu).

    A kernel before gives every processor as many blocks, by at most `most` splits of a sequence. Where the
    library leaves that open (0), it is what would be right for one sequence.
    """
    each = ceil_div(1.1 * shape.batch * shape.kv_heads * blocks, gpu.processors)
    planned = ceil_div(blocks, each)
    if most:
        return np.minimum(planned, most)
    alone = _fewest_splits(shape.kv_heads, blocks, gpu.processors)
    return np.minimum(planned, np.where(blocks <= 4, 1.0, alone))


def _fewest_splits(units: Floats, blocks: Floats, slots: float, apart: bool = False) -> Floats:
    """The fewest splits of so many blocks that fill the last wave of `slots` within 0.85 of the best.

    One where units nearly fill the slots. `apart`: only numbers that make the longest split shorter count.
    """
    most = FLASH_MOST + 1  # both are whole numbers, so that one tells a pair
    pairs = np.minimum(units, slots) * most + np.minimum(blocks, min(slots, FLASH_MOST))
    known, place = np.unique(pairs, return_inverse=True)
    found = np.array([_fewest(*divmod(pair, most), slots, apart) for pair in known.tolist()])
    return np.asarray(found[place.reshape(np.shape(pairs))])


@cache
def _fewest(units: float, blocks: float, slots: float, apart: bool) -> float:
    count = np.arange(1.0, blocks + 1)
    waves = units * count / slots
    full = waves / np.ceil(waves)
    if apart:
        longest = np.ceil(blocks / count)
        full[1:] = np.where(longest[1:] < longest[:-1], full[1:], 0.0)
    return 1.0 if units >= FULL_ENOUGH * slots else float(count[np.argmax(full >= BARELY_FULL * full.max())])


def xqa_splits(shape: Shape, gpu: Gpu) -> Floats:
    """Parts of a sequence by XQA's own rule (TensorRT-LLM, computeMultiBlockCount).

    One per 128 keys, whatever the window, but the square root of eight times as many at most, lest adding up
    take over; fewer where thread blocks make more than eight waves.
    """
    pieces = np.floor(shape.kv_len / PIECE_KEYS)
    pieces = np.maximum(1.0, np.minimum(pieces, np.round(np.sqrt(8 * pieces))))
    waves = shape.batch * shape.kv_heads * pieces / gpu.processors
    return np.asarray(np.maximum(1.0, np.floor(pieces / np.maximum(1.0, waves / GROUPED_WAVES))))


def triton_splits(shape: Shape, seen: Floats, gpu: Gpu) -> Floats:
    """Parts of a sequence in SGLang's Triton kernel (get_num_kv_splits_triton), which has 8 at most.

    As many as fill the processors, times the logarithm of how many blocks of 64 keys there are.
    """
    blocks = shape.batch * shape.kv_heads * ceil_div(shape.group, TRITON_HEADS)
    grown = np.floor(gpu.processors * np.maximum(np.log2(seen / 64), 1.0))
    splits = np.minimum(ceil_div(grown, blocks), TRITON_MOST)
    return ceil_div(seen, ceil_div(seen / splits, TRITON_LEAST) * TRITON_LEAST)


def latent_splits(shape: Shape, gpu: Gpu) -> Floats:
    """Parts of a sequence in vLLM's Triton kernel for latents (triton_mla.py, _compute_num_kv_splits).

    A power of two, of 512 keys or more each, and two for each processor at most.
    """
    pieces = np.maximum(np.floor(shape.kv_len / LATENT_LEAST), 1.0)
    return np.asarray(np.minimum(np.exp2(np.ceil(np.log2(pieces))), 2 * gpu.processors))


def flashinfer_splits(units: Floats, seen: Floats, gpu: Gpu) -> Floats:
    """Parts of a sequence by FlashInfer's rule (PrefillPlan, by which it decodes on tensor cores).

    As many as two blocks a processor leave to a tile, of 128 keys or more.
    """
    most = np.maximum(np.floor(FLASHINFER_BLOCKS * gpu.processors / units), 1.0)
    return ceil_div(seen, np.maximum(ceil_div(seen, most), PIECE_KEYS))


def flashinfer_tile(group: Floats, gpu: Gpu, dtype: Dtypes) -> tuple[Floats, Floats]:
    """Rows of a tile of FlashInfer's decode, used or not, and blocks whose starts overlap on a processor.

    Up to three heads of 16 bits are multiplied by vector units (SGLang's should_use_tensor_core), in blocks
    of 128 threads of which many fit; others in tiles of 16, 64 or 128 rows (FA2DetermineCtaTileQ), whose
    starts add up.
    """
    vector = (group < TENSOR_HEADS) & (dtype.kv != "fp8")
    fit = np.floor(gpu.shared_bytes / (VECTOR_BYTES * np.where(group > 1, 1.0, 4.0)))
    beside = np.minimum(fit, gpu.resident_threads / VECTOR_THREADS)
    rows = np.select([vector, group <= 16, group <= 64], [1.0, 16.0, 64.0], 128.0)
    return rows, np.where(vector, beside, 1.0)


def segments(shape: Shape, seen: Floats, step: float) -> Floats:
    """Parts of a sequence in vLLM's Triton kernel (unified_attention): 16 where there are few blocks, or one.

    Those before the window end at once.
    """
    each = ceil_div(shape.kv_len, SEGMENTS * step) * step
    return np.where(shape.batch * shape.kv_heads <= SEGMENTED, ceil_div(seen, each), 1.0)


def plain_splits(shape: Shape, gpu: Gpu) -> tuple[Floats, Floats, Floats]:
    """Of TensorRT-LLM's kernel of one query head: splits, keys of a step, and blocks on a processor.

    Registers leave room for 1024 threads, in blocks of 256, or of up to four times as many where there are
    few. Eight or 16 bytes of eight keys a thread and loop; as many splits as fill the processors, each with
    one loop or more (mmha_launch_kernel, multi_block_grid_setup). A loop goes by steps of one key a thread.
    """
    heads = shape.batch * shape.heads
    factor = np.minimum(ceil_div(PLAIN_BLOCKS * gpu.processors, heads), PLAIN_BLOCKS)
    factor = np.exp2(np.floor(np.log2(np.maximum(factor, 1.0))))
    beside = PLAIN_BLOCKS / factor
    step = factor * 256 * 8 / np.exp2(np.ceil(np.log2(shape.key_dim)))
    splits = np.minimum(ceil_div(gpu.processors * beside, heads), ceil_div(shape.kv_len, 8 * step))
    return splits, step, beside
