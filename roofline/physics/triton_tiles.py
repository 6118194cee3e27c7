"""Tiles of the fused Triton kernel for experts, as engines choose them.

An engine ships tuned tiles for the sizes that somebody measured on a GPU, named by the experts of a rank and
the width of one of them. Without, it takes one by rules of thumb: where that is small for a long prompt, it
feeds the tensor cores at half of the rate of a large one.

Source: names of the configurations in sglang 0.5.10 and 0.5.14 and in vllm 0.19.0 (all Apache-2.0), and the
default of `get_default_config` beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from roofline.physics.libraries import of_engine, since

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.physics.base import Columns, Floats

    Mask = NDArray[np.bool_]

# By GPU and experts of a rank: the widths of an expert that SGLang tuned for 16 bits up to 0.5.10, and since.
TUNED: dict[str, dict[int, tuple[int, ...]]] = {
    "A100-SXM4-40GB": {8: (1792, 3584), 16: (1344,)},
    "A100-SXM4-80GB": {
        1: (1792, 3584, 7168, 14336),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1344, 1792, 2688, 3584, 7168, 14336),
        64: (640, 1280),
        257: (64,),
    },
    "B200-SXM-180GB": {
        16: (1024, 1856, 2048),
        32: (928, 1856),
        64: (464, 928, 1856, 2688),
        128: (232, 464, 928, 1344, 1856, 2688),
        256: (256, 512, 672, 1344, 2688),
        512: (128, 256, 336, 672, 1344, 2688),
    },
    "H100-SXM5-80GB": {
        1: (3072,),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1024, 1344, 1856, 2048, 2688),
        20: (2048,),
        24: (1024,),
        32: (928, 1856),
        64: (320, 464, 640, 928, 1280, 1856, 2688),
        128: (192, 232, 384, 464, 512, 768, 928, 1344, 1856, 2688),
        144: (512,),
        256: (672, 1344, 2688),
        512: (64, 128, 336, 672, 1344, 2688),
    },
    "H20-96GB": {128: (96, 192, 384, 768), 256: (512,)},
    "H200-SXM-141GB": {
        8: (1792, 2048, 3584, 4096, 7168, 14336),
        16: (1024,),
        20: (1536,),
        64: (320, 640, 1280, 2560),
        128: (192, 384, 768),
        161: (192,),
        512: (64, 128, 256),
    },
    "L40S-48GB": {8: (3584,), 128: (928, 1856)},
    "MI300X": {8: (1792, 3584, 7168, 14336)},
    "MI325X": {8: (1792, 3584, 7168, 14336)},
}
TUNED_SINCE: dict[str, dict[int, tuple[int, ...]]] = {
    "B200-SXM-180GB": {32: (224, 448, 896, 1792), 64: (192, 384, 768, 1536), 128: (352, 704)},
    "H100-SXM5-80GB": {32: (224, 448, 896, 1792), 64: (192, 384, 768, 1536), 65: (1536,), 128: (352, 704)},
    "H20-96GB": {192: (192,)},
    "H200-SXM-141GB": {128: (704,), 129: (384,)},
    "MI325X": {32: (224, 448, 896, 1792), 64: (192, 384, 768, 1536)},
    "RTX-PRO-6000-Blackwell-Server": {256: (512,)},
}


# The same of vLLM: for 16 bits, and for 8 bits that are scaled in blocks.
VLLM: dict[str, dict[int, tuple[int, ...]]] = {
    "A100-SXM4-40GB": {8: (1792, 3584), 16: (1344,)},
    "A100-SXM4-80GB": {
        1: (1792, 3584, 7168, 14336),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1344, 1792, 2688, 3584, 7168, 14336),
        64: (640, 1280),
        128: (192,),
        512: (64, 128),
    },
    "B200-SXM-180GB": {
        16: (1024,),
        32: (1408,),
        64: (1408,),
        128: (512, 768, 1856),
        512: (64, 128, 256, 512, 672, 1344),
    },
    "H100-SXM5-80GB": {
        1: (3072,),
        8: (1792, 2048, 3584, 4096, 7168),
        16: (1344, 1792, 2688),
        32: (1792,),
        62: (256, 512),
        64: (320, 640, 1280, 1536),
        72: (384, 768),
        128: (192, 384, 512, 928, 1856),
        256: (512,),
        512: (128, 256, 512),
    },
    "H20-96GB": {64: (384, 768, 896, 3072), 128: (96, 192, 384, 768)},
    "H200-SXM-141GB": {
        8: (1792, 2048, 3584, 4096, 7168, 14336),
        16: (1024, 2048),
        64: (320, 640, 1280, 2560),
        128: (96, 192, 384, 512, 768, 1024),
        512: (64, 128, 256, 512),
    },
    "L40S-48GB": {8: (3584,), 128: (928, 1856)},
    "MI300X": {
        8: (1792, 2048, 3584, 4096, 7168, 8192, 14336, 16384),
        16: (1024,),
        60: (176, 352, 704, 1408),
        62: (128, 256, 512),
        72: (192, 384, 768),
        128: (1024,),
        160: (192,),
    },
    "MI325X": {8: (1792, 2048, 3584, 4096, 7168, 8192, 14336, 16384)},
}
VLLM_BLOCKS: dict[str, dict[int, tuple[int, ...]]] = {
    "B200-SXM-180GB": {
        16: (4096,),
        20: (2560,),
        32: (2048,),
        40: (2560,),
        64: (512,),
        128: (384, 512, 768),
        160: (640,),
        256: (256, 512),
        384: (128, 256),
        512: (128, 256, 512),
    },
    "GB200": {20: (2560,), 40: (2560,), 128: (384, 768), 160: (640,), 384: (128, 256)},
    "H100-SXM5-80GB": {256: (128, 384), 512: (256,)},
    "H20-96GB": {128: (384, 768), 256: (128, 256)},
    "H200-SXM-141GB": {
        8: (2048,),
        16: (4096,),
        32: (2048,),
        128: (384, 512, 768),
        256: (256, 512),
        384: (128,),
    },
    "MI300X": {128: (384, 768), 256: (256,)},
    "MI325X": {256: (256,)},
}


# Of 8 bits with one scale for all: vLLM's.
VLLM_8_BITS: dict[str, dict[int, tuple[int, ...]]] = {
    "B200-SXM-180GB": {16: (1024,), 40: (1536,), 128: (512, 704), 160: (384,)},
    "B300-SXM-288GB": {160: (192, 384, 768)},
    "GB200": {128: (512,), 512: (128, 256, 512)},
    "H100-SXM5-80GB": {
        8: (2048, 3584, 4096, 7168, 8192, 14336),
        16: (800, 3200, 6400),
        64: (320, 640, 1280, 2560, 8960),
        128: (352, 704, 8960),
    },
    "H20-96GB": {64: (384, 768, 1536, 3072)},
    "H200-SXM-141GB": {
        8: (1792, 2048, 3584, 4096, 7168, 8192, 14336),
        16: (1024, 2048),
        64: (320, 640, 1280, 2560),
        128: (96, 512, 1024, 1856),
        160: (192,),
    },
    "RTX-PRO-6000-Blackwell-Server": {20: (1536,)},
}
# Of 8 bits in blocks: SGLang's.
SGLANG_BLOCKS: dict[str, dict[int, tuple[int, ...]]] = {
    "B200-SXM-180GB": {128: (384,), 256: (256,), 257: (256,), 264: (256,), 384: (256,), 385: (128,)},
    "H100-SXM5-80GB": {64: (1024,), 128: (384,), 256: (128, 384), 257: (128,), 272: (128,), 512: (256,)},
    "H20-96GB": {128: (384, 768), 256: (128, 384), 257: (128, 256), 264: (256,), 272: (128,), 384: (128,)},
    "H200-SXM-141GB": {
        64: (512,),
        80: (640,),
        128: (384, 768),
        160: (640,),
        256: (256,),
        257: (128, 256),
        264: (256,),
        384: (128,),
        385: (128,),
    },
}


class Sizes(NamedTuple):
    """What a tile is chosen by: one array entry per row."""

    tokens: Floats  # of all ranks
    experts: Floats  # of a rank
    width: Floats  # of an expert on it


def untuned(
    rows: Columns, gpu: str, layer: Sizes, dtype: str, plain: Mask
) -> tuple[Mask, tuple[Floats, Floats]]:
    """Rows that nobody tuned by the lists above, and the rows and columns of the tile taken instead.

    Known of 16 bits (`plain`) and of 8 in blocks, and of vLLM's 8 bits.
    """
    blocks, vllm, sglang = dtype == "fp8_block", of_engine(rows, "vllm"), of_engine(rows, "sglang")
    by_tokens = vllm & since(rows, 0, 15)
    ruled = (vllm | sglang) & (plain | blocks) | by_tokens & (dtype == "fp8")
    pairs = zip(default_tile(layer, blocks), default_tile_by_tokens(layer.tokens, blocks), strict=True)
    size, wide = (np.where(by_tokens, new, old) for old, new in pairs)
    if ruled.any():
        theirs = VLLM_BLOCKS if blocks else VLLM_8_BITS if dtype == "fp8" else VLLM
        known = _listed(SGLANG_BLOCKS if blocks else TUNED, gpu, layer)
        if not blocks:
            known |= _listed(TUNED_SINCE, gpu, layer) & since(rows, 0, 5, 11)
        ruled &= ~np.where(vllm, _listed(theirs, gpu, layer), known)
    return ruled, (size, wide)


def default_tile(layer: Sizes, blocks: bool) -> tuple[Floats, Floats]:
    """Rows and columns of the tile that SGLang, and vLLM before 0.15, take without tuning.

    For 16 bits, or for 8 in `blocks` of 128 x 128.
    """
    count = len(layer.tokens)
    if blocks:
        return np.full(count, 64.0), np.full(count, 128.0)
    few = layer.tokens <= layer.experts
    return np.where(few, 16.0, 64.0), np.where(few, 32.0, 64.0)


def default_tile_by_tokens(tokens: Floats, blocks: bool) -> tuple[Floats, Floats]:
    """The same of vLLM since 0.15, for 16 bits and 8 with one scale, or for 8 in `blocks` of 128 x 128."""
    if blocks:
        return np.where(tokens <= 64, 16.0, 64.0), np.full(len(tokens), 128.0)
    rows = np.select([tokens <= 32, tokens <= 96, tokens <= 512], [16.0, 32.0, 64.0], 128.0)
    return rows, np.where(tokens <= 64, 64.0, 128.0)


def default_tile_of_narrow(tokens: Floats) -> tuple[Floats, Floats]:
    """The same of vLLM's kernel for weights of 4 bits and activations of 16 (`get_default_config`,
    `get_moe_wna16_block_config`).

    Up to 6 choices for each expert vLLM runs another kernel (`moe_wna16_gemm`) with about the same rows.
    """
    rows = np.select([tokens <= 20, tokens <= 40], [16.0, 32.0], 64.0)
    return rows, np.where(tokens <= 1, 32.0, 64.0)


def _listed(sizes: dict[str, dict[int, tuple[int, ...]]], gpu: str, layer: Sizes) -> Mask:
    found = np.zeros(np.broadcast(layer.experts, layer.width).shape, dtype=bool)
    for count, widths in sizes.get(gpu, {}).items():
        found |= (layer.experts == count) & np.isin(layer.width, widths)
    return found
