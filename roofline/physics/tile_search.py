"""Tiles that a library looks for among its candidates by waves of processors, as its source does.

One tile a row follows, as from the rules in `dispatch`, but from a search that no table of sizes expresses.

Sources: DeepGEMM, csrc/jit_kernels/heuristics (`get_best_config`; MIT), which SGLang and vLLM call; its
first form in TensorRT-LLM's fp8_blockscale_gemm (`get_best_gemm_config`, `gemm_dispatch`; Apache-2.0); and
FlashInfer, flashinfer/gemm (`_compute_tactic_for_m` of its CuTe kernels for FP4; Apache-2.0). Read in 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roofline.physics.base import Gpu

    Search = Callable[[Any, Any, Any, Gpu], "Tiles"]  # of rows, columns and depth of products


class Tiles(NamedTuple):
    """The tile of each row of a table."""

    rows: Any  # of A, that one tile covers
    columns: Any  # of W
    processors: Any  # that compute it together, an equal part each
    cluster_rows: Any  # tiles that run beside each other and share what they read
    cluster_columns: Any
    multiplied: Any  # rows, with those that the tensor core adds to a shorter tile
    ordered: bool = True  # along the side with more tiles; else along the cheaper one


WGMMA, TCGEN05 = 64, 128  # rows of one instruction; of tcgen05 with scales by blocks (PTX ISA)
SHALLOW = 256  # k, up to which DeepGEMM takes no tile of more than 128 columns on Blackwell
PAIRED_FROM = 512  # rows, from which DeepGEMM shares operands between two processors
SWAPPED_BELOW = 32  # rows, below which TensorRT-LLM exchanges the operands


def deep_gemm(m: Any, n: Any, k: Any, gpu: Gpu) -> Tiles:
    """The fewest waves, then the fullest last one, of DeepGEMM's candidates."""
    if gpu.generation >= 10:
        return _distinct(_deep_gemm_blackwell, m, n, k > SHALLOW, gpu)
    return _distinct(_deep_gemm_hopper, m, n, 1, gpu)


def early_deep_gemm(m: Any, n: Any, k: Any, gpu: Gpu) -> Tiles:
    """The same as SGLang had it in 2025: few rows fill no less than 64 on Hopper."""
    if gpu.generation >= 10:
        return deep_gemm(m, n, k, gpu)
    return _distinct(_deep_gemm_hopper, m, n, 0, gpu)


def _deep_gemm_hopper(m: Any, n: Any, short: Any, gpu: Gpu) -> Tiles:
    """Tiles of at most 128 rows or columns; columns above 128 are those whose scales divide evenly."""
    few = np.where(short > 0, m, np.inf)
    heights = ((64, m > 0), (128, m > 0), (256, m > 0), (16, few <= 16), (32, few <= 32))
    widths = (*range(16, 129, 16), 144, 160, 192)
    pairs = [(h, w, fits) for h, fits in heights for w in widths if h <= 128 or w <= 128]
    rows, columns = _fewest_waves(m, n, gpu, pairs)
    return _plain(rows, columns, np.maximum(rows, WGMMA))


def _deep_gemm_blackwell(m: Any, n: Any, deep: Any, gpu: Gpu) -> Tiles:
    """128 rows, fewer for few, and columns that leave tensor memory for two stages; in pairs where even."""
    heights = ((128, np.inf), (32, 32), (64, 64))
    widths = (16, *range(32, 225, 32))
    pairs = [(h, w, (m <= most) & ((deep > 0) | (w <= 128))) for h, most in heights for w in widths]
    rows, columns = _fewest_waves(m, n, gpu, pairs)
    paired = (m >= PAIRED_FROM) & (np.ceil(m / rows) % 2 == 0) & (gpu.processors % 2 == 0)
    together = np.where(paired, 2.0, 1.0)
    found = _plain(rows * together, columns, np.maximum(rows, TCGEN05) * together)
    return found._replace(processors=together)


def tensorrt_llm(m: Any, n: Any, k: Any, gpu: Gpu) -> Tiles:
    """DeepGEMM's first form on Hopper, in which few rows of A change places with the columns of W."""
    if gpu.generation >= 10:
        return deep_gemm(m, n, k, gpu)
    return _distinct(_tensorrt_llm, m, n, 0, gpu)


def _tensorrt_llm(m: Any, n: Any, _: Any, gpu: Gpu) -> Tiles:
    swapped = m < SWAPPED_BELOW
    along, over = np.where(swapped, n, m), np.where(swapped, m, n)
    widths = range(16, 129, 8)
    pairs = [(h, w, (along <= 64) == (h == 64)) for h in (64, 128) for w in widths]
    high, wide = _fewest_waves(along, over, gpu, pairs)
    rows, columns = np.where(swapped, wide, high), np.where(swapped, high, wide)
    return _plain(rows, columns, rows)


def _fewest_waves(m: Any, n: Any, gpu: Gpu, pairs: Sequence[tuple[int, int, Any]]) -> tuple[Any, Any]:
    """Rows and columns by DeepGEMM's comparison; `pairs` are tiles in its order and where each is allowed."""
    high, wide = np.zeros_like(m), np.zeros_like(n)
    least, fullest = np.full_like(m, np.inf), np.zeros_like(m)
    for rows, columns, allowed in pairs:
        blocks = np.ceil(m / rows) * np.ceil(n / columns)
        waves = np.ceil(blocks / gpu.processors)
        last = blocks - (waves - 1) * gpu.processors
        wasted = (high == rows) & (columns < wide) | (wide == columns) & (rows < high)
        wider = (high != rows) & (columns > wide) & (columns <= n) & (rows <= m)
        better = (last > fullest) | (last == fullest) & (wasted | wider)
        taken = allowed & ((waves < least) | (waves == least) & better)
        high, wide = np.where(taken, rows, high), np.where(taken, columns, wide)
        least, fullest = np.where(taken, waves, least), np.where(taken, last, fullest)
    return high, wide


def _plain(rows: Any, columns: Any, multiplied: Any) -> Tiles:
    one = np.ones_like(rows)
    return Tiles(rows, columns, one, one, one, multiplied, ordered=False)


FP4_TILES = tuple((h, w) for w in (64, 128, 192, 256) for h in (128, 256))


def flashinfer_fp4(m: Any, n: Any, k: Any, gpu: Gpu) -> Tiles:
    """The best score of FlashInfer's tiles for the power of two at or below the rows, untuned."""
    bucket = np.exp2(np.floor(np.log2(np.clip(m, 1, 4096))))
    depth = np.where(k <= 1024, 2, np.where(k <= 2048, 1, 0))
    return _distinct(_flashinfer, bucket, n, depth + 4 * (m % 8 == 0), gpu)


def _flashinfer(m: Any, n: Any, key: Any, gpu: Gpu) -> Tiles:
    even, penalty = key >= 4, np.choose(key % 4, [1.0, 0.8, 0.5])  # of large tiles where k is short
    swapped = even & ((m >= 8) & (m <= 16) & (n > m) | (n % 8 != 0))
    along, over = np.where(swapped, n, m), np.where(swapped, m, n)
    best = np.full_like(m, -1.0)
    high, wide = np.full_like(m, 128.0), np.full_like(m, 128.0)
    for rows, columns in FP4_TILES:
        across = np.ceil(over / columns)
        square = (min(rows, columns) / max(rows, columns)) ** 0.25
        through = over / (across * columns) * (rows * columns) ** 0.5 / 256 * square
        through = through * (penalty if rows * columns > 128 * 128 else 1.0)
        blocks = np.ceil(along / rows) * across
        score = along * blocks * through / (rows * np.ceil(blocks / gpu.processors))
        taken = score > best
        best = np.where(taken, score, best)
        high, wide = np.where(taken, rows, high), np.where(taken, columns, wide)
    across = np.ceil(over / wide)
    beside = np.where((across % 4 == 0) | (across > 10), 4.0, np.where(across % 2 == 0, 2.0, 1.0))
    beside = np.where(along <= high, beside, 1.0)
    one = np.ones_like(high)
    return Tiles(
        np.where(swapped, wide, high),
        np.where(swapped, high, wide),
        high / 128,
        np.where(swapped, beside, one),
        np.where(swapped, one, beside),
        np.where(swapped, wide, high),
        ordered=False,
    )


def _distinct(search: Search, m: Any, n: Any, key: Any, gpu: Gpu) -> Tiles:
    """A search done once for each distinct product."""
    sizes = [np.asarray(each, dtype=np.int64) for each in np.broadcast_arrays(np.maximum(m, 1), n, key)]
    whole = (sizes[0] << 33) + (sizes[1] << 3) + sizes[2]
    _, first, place = np.unique(whole, return_index=True, return_inverse=True)
    rows, columns = (each[first].astype(np.float64) for each in sizes[:2])
    found = search(rows, columns, sizes[2][first], gpu)
    table = np.stack(np.broadcast_arrays(*found[:-1])).astype(np.float32)
    return Tiles._make([*table[:, place][:, None, None], found.ordered])
