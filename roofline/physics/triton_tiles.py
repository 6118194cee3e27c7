"""Tiles of the fused Triton kernel for experts, as engines choose them.

An engine ships tuned tiles for the sizes that somebody measured on a GPU, named by the experts of a rank and
the width of one of them. Without, it takes one by rules of thumb: where that is small for a long prompt, it
feeds the tensor cores at half of the rate of a large one.

Source: names of the configurations in sglang 0.5.10 and 0.5.14 and in vllm 0.19.0 (all Apache-2.0), and the
default of `get_default_config` beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.physics.base import Floats

    Mask = NDArray[np.bool_]

# By GPU and experts of a rank: the widths of an expert that SGLang tuned for 16 bits up to 0.5.10, and since.
TUNED: dict[str, dict[int, tuple[int, ...]]] = {
    "A100-SXM4-40GB": {
        8: (1792, 3584),
        16: (1344,),
    },
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
    "H20-96GB": {
        128: (96, 192, 384, 768),
        256: (512,),
    },
    "H200-SXM-141GB": {
        8: (1792, 2048, 3584, 4096, 7168, 14336),
        16: (1024,),
        20: (1536,),
        64: (320, 640, 1280, 2560),
        128: (192, 384, 768),
        161: (192,),
        512: (64, 128, 256),
    },
    "L40S-48GB": {
        8: (3584,),
        128: (928, 1856),
    },
    "MI300X": {
        8: (1792, 3584, 7168, 14336),
    },
    "MI325X": {
        8: (1792, 3584, 7168, 14336),
    },
}
TUNED_SINCE: dict[str, dict[int, tuple[int, ...]]] = {
    "B200-SXM-180GB": {
        32: (224, 448, 896, 1792),
        64: (192, 384, 768, 1536),
        128: (352, 704),
    },
    "H100-SXM5-80GB": {
        32: (224, 448, 896, 1792),
        64: (192, 384, 768, 1536),
        65: (1536,),
        128: (352, 704),
    },
    "H20-96GB": {
        192: (192,),
    },
    "H200-SXM-141GB": {
        128: (704,),
        129: (384,),
    },
    "MI325X": {
        32: (224, 448, 896, 1792),
        64: (192, 384, 768, 1536),
    },
    "RTX-PRO-6000-Blackwell-Server": {
        256: (512,),
    },
}


# The same of vLLM: for 16 bits, and for 8 bits that are scaled in blocks.
VLLM: dict[str, dict[int, tuple[int, ...]]] = {
    "A100-SXM4-40GB": {
        8: (1792, 3584),
        16: (1344,),
    },
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
    "H20-96GB": {
        64: (384, 768, 896, 3072),
        128: (96, 192, 384, 768),
    },
    "H200-SXM-141GB": {
        8: (1792, 2048, 3584, 4096, 7168, 14336),
        16: (1024, 2048),
        64: (320, 640, 1280, 2560),
        128: (96, 192, 384, 512, 768, 1024),
        512: (64, 128, 256, 512),
    },
    "L40S-48GB": {
        8: (3584,),
        128: (928, 1856),
    },
    "MI300X": {
        8: (1792, 2048, 3584, 4096, 7168, 8192, 14336, 16384),
        16: (1024,),
        60: (176, 352, 704, 1408),
        62: (128, 256, 512),
        72: (192, 384, 768),
        128: (1024,),
        160: (192,),
    },
    "MI325X": {
        8: (1792, 2048, 3584, 4096, 7168, 8192, 14336, 16384),
    },
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
    "GB200": {
        20: (2560,),
        40: (2560,),
        128: (384, 768),
        160: (640,),
        384: (128, 256),
    },
    "H100-SXM5-80GB": {
        256: (128, 384),
        512: (256,),
    },
    "H20-96GB": {
        128: (384, 768),
        256: (128, 256),
    },
    "H200-SXM-141GB": {
        8: (2048,),
        16: (4096,),
        32: (2048,),
        128: (384, 512, 768),
        256: (256, 512),
        384: (128,),
    },
    "MI300X": {
        128: (384, 768),
        256: (256,),
    },
    "MI325X": {
        256: (256,),
    },
}


def tuned_by_sglang(gpu: str, experts: Floats, width: Floats, recent: Mask) -> Mask:
    """Where it has tiles of 16 bits for so many experts of such a width; `recent`: it is after 0.5.10."""
    found = _listed(TUNED, gpu, experts, width)
    return found | (_listed(TUNED_SINCE, gpu, experts, width) & recent)


def tuned_by_vllm(gpu: str, experts: Floats, width: Floats, blocks: bool) -> Mask:
    """The same of vLLM, of 16 bits or of 8 in blocks."""
    return _listed(VLLM_BLOCKS if blocks else VLLM, gpu, experts, width)


def default_tile(tokens: Floats, experts: Floats) -> tuple[Floats, Floats]:
    """Rows and columns of the tile that SGLang, and vLLM before 0.15, take for 16 bits without tuning."""
    few = tokens <= experts
    return np.where(few, 16.0, 64.0), np.where(few, 32.0, 64.0)


def default_tile_by_tokens(tokens: Floats, blocks: bool) -> tuple[Floats, Floats]:
    """The same of vLLM since 0.15, for 16 bits, or for 8 in `blocks` of 128 x 128."""
    if blocks:
        return np.where(tokens <= 64, 16.0, 64.0), np.full(len(tokens), 128.0)
    rows = np.select([tokens <= 32, tokens <= 96, tokens <= 512], [16.0, 32.0, 64.0], 128.0)
    return rows, np.where(tokens <= 64, 64.0, 128.0)


def _listed(sizes: dict[str, dict[int, tuple[int, ...]]], gpu: str, experts: Floats, width: Floats) -> Mask:
    found = np.zeros(np.broadcast(experts, width).shape, dtype=bool)
    for count, widths in sizes.get(gpu, {}).items():
        found |= (experts == count) & np.isin(width, widths)
    return found
