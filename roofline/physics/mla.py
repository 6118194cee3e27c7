"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): prompts un-absorbed, decode on the latent.

Sizes are those of DeepSeek-V2 and V3, which the measured tables have: keys of 192 and values of 128 elements
per head un-absorbed; absorbed, one cached vector of 576 elements whose first 512 are also the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from roofline.physics.attention import (
    LATENT,
    NOPE,
    ROTATED,
    START_S,
    VALUE,
    WHY,
    Shape,
    element,
    scheduled,
)
from roofline.physics.base import SHARED_BYTES_PER_CLOCK, WARP_ROWS, Constant, ceil_div, column
from roofline.physics.decode import CONSTANTS as DECODE
from roofline.physics.decode import Grid, decode_parts
from roofline.physics.libraries import kernel_of, of_engine
from roofline.physics.model import KernelModel
from roofline.physics.prefill import CONSTANTS as PREFILL
from roofline.physics.prefill import SYNC_SHARE, prefill_parts, waiting
from roofline.physics.prompt_tiles import Tiling
from roofline.physics.splits import TRITON_HEADS, even_splits, latent_splits, triton_splits

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

# Heads that one tile of decode holds: more heads read the cache again.
LATENT_ROWS: Mapping[int, float] = {8: 64.0, 9: 64.0, 10: 128.0}
# That it computes, used or not: on Blackwell what brings the latent to the tensor cores takes so long.
LEAST_ROWS = 64.0
ABSORBED = "flash_attention"  # SGLang's kernel on Hopper serves prompts on the latent cache too
# By generation: TensorRT-LLM's on Ampere by its kernel's name (bf16_64_128_S_q_paged_kv_192x128), of the
# others those that leave the least error on the measured rows.
TILINGS: Mapping[int, Tiling] = {8: Tiling(64, 128), 9: Tiling(128, 64), 10: Tiling(256, 64)}
LATENT_TILING = Tiling(64, 64, packed=True)
# No tile multiplies faster than the peak: rows that wait for memory do not tell, and trade it for starts.
TILE_SHARE = Constant("tile_share", "", 0.2, 1.0, 0.7, "share of the peaks inside a tile", "format")
# Before Hopper products alone reach what they do in prompts, and what passes shared memory adds to them.
ALONE = Constant("tile_share", "", 0.9, 1.0, SYNC_SHARE, "share of the peaks inside a tile", "format")
# Of a block of latents: FlashMLA's and FlashAttention 3's by their sources, Ampere's as its times step.
LATENT_KEYS: Mapping[int, float] = {8: 64.0, 9: 64.0, 10: 128.0}
WIDENING_STARTS = 3  # kernels: the widening, and two that bring new latents and rotated keys into 8 bits
# torch's casts from 8 bits look up the format of each element (gpu_kernel with dynamic casting): 0.28 of an
# H100's memory, by the times before pytorch/pytorch pull request 110251 (1e8 elements of 3 bytes in 0.32 ms).
CONVERT = Constant("convert_share", "", 0.05, 1.0, 0.28, "memory share of widening an fp8 cache to bf16")


class MlaPrefillModel(KernelModel):
    """Attention of prompts with expanded keys and values, or on the latent where the kernel does so."""

    kinds: ClassVar[tuple[str, ...]] = ("mla_prefill",)
    why: ClassVar[Mapping[str, str]] = WHY
    family: ClassVar[tuple[str, ...]] = ("n_heads",)
    ampere_apart: ClassVar[bool] = True  # its warps wait for products, and have other constants
    start_weight: ClassVar[float] = 1.0  # known roughly from other kernels; loose ones trade places

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Those of other attention."""
        return waiting(PREFILL) if gpu.generation < 9 else PREFILL

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The parts of prefill, with the sizes of MLA."""
        kernel = kernel_of(rows)
        absorbed = kernel == ABSORBED and gpu.generation < 10
        shape = latent_shape(rows) if absorbed else expanded_shape(rows)
        tiling = LATENT_TILING if absorbed else TILINGS[max(gpu.generation, 8)]
        parts = prefill_parts(shape, tiling, kernel, gpu, dtype, c)
        ideal = np.minimum(expanded_shape(rows).ideal_s(gpu, dtype), parts["ideal"])
        return {**parts, "ideal": ideal, "reached": parts["reached"] + parts["ideal"] - ideal}


class MlaDecodeModel(KernelModel):
    """One cached vector per position, read once for all heads of a tile."""

    kinds: ClassVar[tuple[str, ...]] = ("mla_decode",)
    why: ClassVar[Mapping[str, str]] = WHY
    family: ClassVar[tuple[str, ...]] = ("n_heads",)
    ampere_apart: ClassVar[bool] = True  # its measured kernel does not split sequences: another algorithm
    start_weight: ClassVar[float] = 1.0  # known roughly from other kernels; loose ones trade places

    def renamed(self, kernel: str, one: Gpu, other: Gpu) -> bool:
        """TensorRT-LLM's is fmha_v2 on Ampere, FlashMLA on Hopper and trtllm-gen on Blackwell."""
        return kernel == "default" and one.generation != other.generation

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Those of other decode attention; Hopper's kernel of SGLang has no fp8 and widens the cache."""
        share = TILE_SHARE if gpu.generation >= 9 else ALONE
        usual = (share if c.name == share.name else c for c in DECODE)
        return (*usual, *((CONVERT,) if gpu.generation == 9 and dtype.kv == "fp8" else ()))

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The parts of decode, with the sizes of MLA, and the widening of the cache."""
        kernel, shape = kernel_of(rows), latent_shape(rows)
        held = np.full_like(shape.heads, LATENT_ROWS[max(gpu.generation, 8)])
        tiles, filled = ceil_div(shape.heads, held), np.where(shape.heads > LEAST_ROWS, held, LEAST_ROWS)
        splits = even_splits(shape.batch * tiles, shape.kv_len, gpu, c)
        if gpu.generation < 9:
            # TensorRT-LLM's kernel does not split sequences; Triton's, which others run there, does.
            whole = of_engine(rows, "trtllm") | (kernel == "default")
            theirs = triton_splits(shape, shape.kv_len, gpu), latent_splits(shape, gpu)
            splits = np.where(whole, 1.0, np.where(of_engine(rows, "sglang"), *theirs))
            tiles = np.where(whole, tiles, ceil_div(shape.heads, TRITON_HEADS))
            filled = np.where(whole, filled, TRITON_HEADS)
            held = np.where(whole, held, TRITON_HEADS)
        starts = (c[name] for name in ("launch_s", "cta_s", "block_s", "combine_s", "split_s"))
        grid = Grid(tiles, filled, np.minimum(shape.heads, held), splits, *starts)
        grid = replace(grid, keys=LATENT_KEYS[max(gpu.generation, 8)])
        widens = "convert_share" in c and kernel == ABSORBED
        read = dtype._replace(kv=dtype.inputs) if widens else _multiplied(dtype, kernel, gpu)
        if gpu.generation < 9:
            grid = replace(grid, shared_s=_shared_s(shape, grid, gpu, read))
        parts = decode_parts(shape, grid, gpu, read, c)
        # FlashMLA launches its combination whether or not it has split.
        beside = scheduled(shape, kernel, gpu) + (kernel == "default" and gpu.generation == 9)
        parts["launch"] = parts["launch"] + beside * START_S
        if widens:
            moved = (
                shape.batch * shape.kv_len * shape.cached_dim * (element(dtype.kv) + element(dtype.inputs))
            )
            parts["convert"] = moved / (gpu.dram_byte_per_s * c["convert_share"])
            parts["launch"] = parts["launch"] + WIDENING_STARTS * START_S
        return parts


def _shared_s(shape: Shape, grid: Grid, gpu: Gpu, dtype: Dtypes) -> Floats:
    """What a block of latents takes in shared memory, through which operands of single warps pass.

    As keys and as values it is written once and read by each warp for its rows; queries are too large for
    registers and are read again. A thread block fills a processor, and its warps wait for what they read
    (fused_multihead_flash_attention_kernel_noloop_tiled.h).
    """
    latents = grid.keys * (shape.key_dim + shape.value_dim)
    passed = latents * (1 + ceil_div(grid.rows, WARP_ROWS)) + grid.rows * shape.key_dim
    return np.asarray(passed * element(dtype.inputs) / (SHARED_BYTES_PER_CLOCK * gpu.clock_hz))


def _multiplied(dtype: Dtypes, kernel: str, gpu: Gpu) -> Dtypes:
    """Queries in 8 bits, too, where the cache is and the GPU multiplies such; SGLang's kernel widens."""
    narrow = dtype.kv == "fp8" and kernel != ABSORBED and "fp8" in gpu.tensor_flop_per_s
    return dtype._replace(inputs="fp8") if narrow else dtype


def expanded_shape(rows: Columns) -> Shape:
    """Keys and values of every head, as large as the projections make them."""
    heads = column(rows, "n_heads")
    dims = {"n_kv_heads": heads, "head_dim": np.full_like(heads, NOPE + ROTATED)}
    return Shape.of({**rows, **dims, "causal": np.ones_like(heads)}, value_dim=np.full_like(heads, VALUE))


def latent_shape(rows: Columns) -> Shape:
    """One cached vector for all heads."""
    heads = column(rows, "n_heads")
    dims = {"n_kv_heads": np.ones_like(heads), "head_dim": np.full_like(heads, LATENT + ROTATED)}
    shape = Shape.of({**rows, **dims, "causal": np.ones_like(heads)}, value_dim=np.full_like(heads, LATENT))
    return replace(shape, cached_dim=shape.key_dim)
