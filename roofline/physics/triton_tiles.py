"""Tiles of the fused Triton kernel for experts, as engines choose them.

An engine ships tuned tiles for the sizes that somebody measured on a GPU, named by the experts of a rank and
the width of one of them. Without, it takes the same small tile for every prompt, which feeds the tensor cores
at half of the rate of a large one.

Source: names of the configurations for 16-bit weights in sglang 0.5.10 and 0.5.14 (Apache-2.0), and the
default of `get_default_config` beside them, which vLLM had too before it chose by the number of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.physics.base import Floats

    Mask = NDArray[np.bool_]

DEFAULT_ROWS = (16.0, 64.0)  # of the tile up to as many tokens as experts, and beyond
DEFAULT_WIDTH = 64.0

# By GPU and experts of a rank: the widths of an expert that were tuned up to 0.5.10, and those since.
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


def tuned(gpu: str, experts: Floats, width: Floats, recent: Mask) -> Mask:
    """Where the engine has tuned tiles for so many experts of such a width; `recent`: it is after 0.5.10."""
    found = _listed(TUNED, gpu, experts, width)
    return found | (_listed(TUNED_SINCE, gpu, experts, width) & recent)


def _listed(sizes: dict[str, dict[int, tuple[int, ...]]], gpu: str, experts: Floats, width: Floats) -> Mask:
    found = np.zeros(np.broadcast(experts, width).shape, dtype=bool)
    for count, widths in sizes.get(gpu, {}).items():
        found |= (experts == count) & np.isin(width, widths)
    return found
