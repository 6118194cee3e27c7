"""Which tiles kernels for attention of many queries take, and which keys and head sizes these compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from roofline.physics.base import ceil_div

if TYPE_CHECKING:
    from roofline.physics.attention import Shape
    from roofline.physics.base import Dtypes, Floats, Gpu


class Tiling(NamedTuple):
    """What a kernel's thread block computes at once."""

    rows: Any  # queries, times heads where they share a tile
    keys: Any  # of one step of its loop: a last step is computed whole
    packed: bool = False  # the query heads of one KV head share a tile


TRITON_SHARED = 128e3  # bytes below which SGLang's Triton kernel takes smaller tiles
VLLM_TRITON = Tiling(16, 32, packed=True)  # vLLM's unified attention in Triton, on any GPU

# By generation; names are those of the measured tables. Tiles of the kernels' sources where these are public
# (FlashAttention 2 paged: 64 rows; 3: below; 4 and trtllm-gen: two tiles of 128; trtllm-gen's names say
# Q128Kv128; TensorRT-LLM's fmha_v2: 64 x 32 on Ampere by its names, two warp groups of 64 x 128 on Hopper),
# else the size that leaves the least error on the measured rows.
TILINGS: Mapping[int, Mapping[str, Tiling]] = {
    8: {
        "": Tiling(128, 64),
        "vllm_flash_attn": Tiling(64, 64),
        "flash_attention": Tiling(128, 64, packed=True),
        "torch_flow": Tiling(64, 32),
        "vllm_triton_attn": VLLM_TRITON,
    },
    9: {
        "": Tiling(128, 64),
        "torch_flow": Tiling(128, 128),
        "vllm_triton_attn": VLLM_TRITON,
    },
    10: {
        "": Tiling(256, 128),
        "vllm_triton_attn": VLLM_TRITON,
        "vllm_flashinfer_trtllmdecode": Tiling(64, 32, packed=True),
    },
}

# FlashAttention 3 on Hopper (hopper/tile_size.h) by head size: up to it, rows; keys of a whole tensor without
# a mask, of a cache in pages under a causal one, of the same in 8 bits.
FLASH_3_TILES = (
    (64.0, 192.0, 192.0, 128.0, 160.0),
    (96.0, 192.0, 144.0, 128.0, 128.0),
    (128.0, 128.0, 176.0, 128.0, 160.0),
    (192.0, 128.0, 112.0, 96.0, 160.0),
    (256.0, 128.0, 80.0, 80.0, 128.0),
)
PAGED = ("fa3", "vllm_flash_attn_fa3")  # FlashAttention 3 on a cache, which it may split
WHOLE = ("vllm_vit_flash_attn_fa3", "flash_attention_v3")  # the same of encoders

# Head sizes that a kernel exists for; others are padded. Beyond the last, multiples of 16. Blackwell's
# kernels take as long for 72 and 80 elements as for 128, whatever their sources pad them to.
HEADS: tuple[float, ...] = (64.0, 96.0, 128.0, 192.0, 256.0)
HEADS_OF_TENSORRT: tuple[float, ...] = (64.0, 128.0, 256.0)
HEADS_OF_BLACKWELL: tuple[float, ...] = (64.0, 128.0, 192.0, 256.0)


def tiling_of(kernel: str, gpu: Gpu, dtype: Dtypes, dim: Any = 128.0) -> Tiling:
    """The kernel's tiles; those of the generation's usual kernel where it has no entry."""
    if kernel == "triton":
        return _triton_tiling(gpu, dim)
    if gpu.generation == 9 and kernel in (*PAGED, *WHOLE):
        return _flash_3_tiling(kernel in PAGED, dtype, dim)
    generation = TILINGS[max(gpu.generation, 8)]
    usual = generation.get(kernel, generation[""])
    if kernel != "torch_flow" or gpu.generation < 9:
        return usual
    if gpu.generation < 10:  # longer steps of small heads; by the times not in 8 bits, as by the source
        return usual._replace(keys=np.where((dim <= 64) & (dtype.kv != "fp8"), 256.0, usual.keys))
    instead, exact = TILINGS[8][kernel], falls_back(dim)
    return Tiling(np.where(exact, instead.rows, usual.rows), np.where(exact, instead.keys, usual.keys))


def falls_back(dim: Any) -> Any:
    """Head sizes for which TensorRT-LLM runs Ampere's kernel on Blackwell, as trtllm-gen has none.

    fmhaDispatcher.cpp leaves them to fmha_v2, of which setup.py builds for sm100 what multiplies by mma.sync,
    for 72 and 80 elements. In the measured version those of 72 alone run there, by their times.
    """
    return np.asarray(dim) % 16 > 0


def heads_computed(shape: Shape, kernel: str, gpu: Gpu) -> Shape:
    """The same with the next head sizes that the kernel exists for."""
    known = HEADS_OF_TENSORRT if kernel == "torch_flow" else HEADS
    if gpu.generation >= 10:
        known = HEADS_OF_BLACKWELL
    return replace(shape, key_dim=_up(shape.key_dim, known), value_dim=_up(shape.value_dim, known))


def _up(size: Floats, known: tuple[float, ...]) -> Floats:
    """The next known size, else the next multiple of 16."""
    found = np.ceil(size / 16) * 16
    for step in reversed(known):
        found = np.where(size <= step, step, found)
    return np.asarray(found)


def _flash_3_tiling(paged: bool, dtype: Dtypes, dim: Any) -> Tiling:
    """Tiles by head size; with a cache the query heads of a KV head share one."""
    *smaller, largest = FLASH_3_TILES
    fits = [np.asarray(dim) <= row[0] for row in smaller]
    which = (3 if dtype.kv != "fp8" else 4) if paged else 2
    rows, keys = (np.select(fits, [row[i] for row in smaller], largest[i]) for i in (1, which))
    return Tiling(rows, keys, packed=paged)


def _triton_tiling(gpu: Gpu, dim: Any) -> Tiling:
    """SGLang's tiles by generation and head size (_get_block_sizes_for_extend_attention)."""
    small = gpu.shared_bytes < TRITON_SHARED  # of GPUs for graphics and workstations
    usual, wide, widest = ((128.0, 128.0), (64.0, 64.0), (32.0, 64.0))
    if small:
        usual, widest = (64.0, 128.0), (32.0, 32.0)
    elif gpu.generation >= 9:
        usual = wide = (128.0, 64.0)
    rows, keys = (np.select([dim <= 128, dim <= 256], [usual[i], wide[i]], widest[i]) for i in (0, 1))
    return Tiling(rows, keys)


def keys_per_tile(shape: Shape, positions: Floats, count: Floats, step: float) -> tuple[Floats, Floats]:
    """Keys that the tiles of one head compute together, and those of the longest tile.

    A causal tile i of `positions` queries sees all keys before its last query, at most those of the window
    and of its own queries; rounded up to the kernel's step. Sums over i in closed form.
    """
    before = shape.kv_len - shape.q_len
    most = shape.window + positions
    last = np.minimum(shape.kv_len, np.where(shape.causal, most, shape.kv_len))
    longest = ceil_div(last, step) * step
    growing = np.clip((most - before) / positions, 0, count - 1)
    grown = growing * before + positions * growing * (growing + 1) / 2
    cut = count - 1 - growing
    rounding = np.maximum(step - positions, 0) / 2 * (count - 1)
    causal = grown + np.where(cut > 0, cut * np.minimum(most, shape.kv_len), 0) + rounding + longest
    return np.where(shape.causal, causal, count * longest), longest
