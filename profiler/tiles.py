"""Pairs that an attention kernel computes: those of every tile that the mask leaves in part, too."""

from __future__ import annotations

import re
from collections.abc import Iterable

from profiler.traces.counters import plain_name
from workloads.operators.attention import Attention
from workloads.operators.base import Operator

# Queries and keys of a tile, as kernels are named; `plain_name` leaves no spaces and casts.
TILES = (
    re.compile(r"Flash_fwd_kernel_traits<\d+,(\d+),(\d+),"),  # kHeadDim, kBlockM, kBlockN of FlashAttention 2
    re.compile(r"fmha_cutlassF_[a-z0-9]+_(?:not)?aligned_(\d+)x(\d+)_"),  # of PyTorch's efficient attention
    re.compile(r"native_sdpa_sm\d+_flash_fprop_\w*?knob_\d+_(\d+)x(\d+)x\d+_"),  # cuDNN's
)


def tile_of(names: Iterable[str]) -> tuple[int, int] | None:
    """Queries and keys of a tile of the first kernel whose name tells them."""
    for name in map(plain_name, names):
        for pattern in TILES:
            if found := pattern.search(name):
                return int(found[1]), int(found[2])
    return None


def tiled_share(operator: Operator, tile: tuple[int, int]) -> float | None:
    """Pairs in tiles with at least one visible pair over the pairs that are visible: 1 or more.

    Of attention to a whole prompt alone: with a window, a chunk or positions before, PyTorch gets a mask and
    computes all pairs; how few queries fill a tile depends on the kernel.

    >>> round(tiled_share(Attention(1, 2048, 2048, 8, 2, 128), (128, 64)), 3)
    1.062
    """
    rows, keys = tile
    if not isinstance(operator, Attention):
        return None
    length = operator.q_len
    if length != operator.kv_len or length < rows or operator.window or operator.chunk:
        return None
    ends = [min(begin + rows, length) if operator.causal else length for begin in range(0, length, rows)]
    return float(sum(rows * keys * -(-end // keys) for end in ends) / operator.pairs())
