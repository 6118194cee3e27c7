"""How a product is cut: the limits of one tile, how many waves of them there are, and what is read again.

A library chooses among all candidates here; a kernel that goes by a rule has one tile a row (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from roofline.physics.base import SLICES_OF_STACKS
from roofline.physics.dispatch import ruled
from roofline.physics.tile_search import TCGEN05, WGMMA, Tiles
from workloads.dtypes import bytes_per_element, compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Gpu

# Rows and columns of C that one thread block computes: what CUTLASS and cuBLAS ship for 16-bit products.
TILES = (
    *((16, 64), (32, 64), (32, 128), (64, 64), (64, 128), (64, 256)),
    *((128, 64), (128, 128), (128, 256), (256, 128)),
)
PAIRED = (256, 256)  # two processors on one tile, since Blackwell (CUTLASS, tcgen05 cta_group::2)
SPLITS = (1, 2, 4, 8, 16)  # parts of the sum over k
DEPTH_BYTES = 128  # of k per step of the main loop: the widest swizzle of shared memory
# Few rows of A trade places with the columns of W, so that no instruction's rows are left empty, but not
# where both have scales by blocks, whose layouts differ.
SCALED = frozenset({"fp8_block", "mxfp8", "mxfp4", "nvfp4"})
SPAN = 128  # rows; a tile as tall as this is tall enough
COHORT = 4  # tiles wide and 8 high, that CUTLASS 2 runs beside each other (threadblock_swizzle_streamk.h)
EDGE = 8  # sharpness of the edge between what stays in the L2 and what does not
MANY = np.float32(64)  # capacities, of which nothing stays: a power that single precision still holds


class Cut(NamedTuple):
    """Candidates (tiles x splits) against rows: seconds of one tile's limits, and how many waves."""

    multiply: Any
    load: Any  # or to multiply, whichever is longer
    widen: Any
    store: Any
    waves: Any
    split: Any
    again: Any  # bytes that further sweeps read once more
    liked: Any  # log weight of the library's preference for tall tiles


def cut(rows: Columns, m: Any, n: Any, k: Any, gpu: Gpu, dtype: Dtypes, c: Mapping[str, Any]) -> Cut:
    """Every candidate's limits. One processor has its share of the tensor peak and one port to the L2."""
    rule = ruled(rows, m, n, k, gpu, dtype)
    tiles = rule or _of_a_library(gpu, dtype)
    bm, bn, together = tiles.rows, tiles.columns, tiles.processors
    s = np.array(SPLITS if rule is None else (1,), dtype=np.float32)[:, None]
    a, w, o = (bytes_per_element(d) for d in (dtype.inputs, dtype.weights, dtype.outputs))
    step = DEPTH_BYTES / a
    depth = np.ceil(k / (s * step)) * np.float32(step)
    down, across = _covering(m, bm, tiles.cluster_rows), _covering(n, bn, tiles.cluster_columns)
    full = np.maximum(down * across * together / gpu.processors * s, np.float32(1))
    port = gpu.l2_byte_per_s / gpu.processors
    fed = min(1.0, gpu.slices / SLICES_OF_STACKS)  # of the ports at once; shares are fitted where all are
    if fed < 1:
        port = port * np.minimum(1, np.float32(fed * gpu.processors) / (down * across * s))
        port = np.maximum(port, np.float32(fed * gpu.l2_byte_per_s / gpu.processors))
    port = port * together
    peak = gpu.peak(compute_dtype(dtype.inputs)) / gpu.processors * together * c["compute_share"]
    halvings = np.log2(32_768 / np.maximum(tiles.multiplied * bn, 4096)).clip(0)
    multiply = 2 * tiles.multiplied * bn / (peak * c["small_tiles"] ** halvings)
    arriving = np.minimum(bm, m) * a + np.minimum(bn, n) * w  # bytes of one element of k
    delivered = port * c["l2_share"]
    least = np.maximum(multiply, c["step_s"] / np.float32(step))
    load = np.maximum(arriving / delivered, least)
    if "beyond" in c:
        whole, missing = _beyond(m, bm, down)
        missing = c["beyond"] * a * missing / tiles.cluster_columns
        load = whole * load + (1 - whole) * np.maximum((arriving + missing) / delivered, least)
    added = 8 * m * n * s  # bytes of partial results, written and read
    widen: Any = np.float32(0)
    if "widen_share" in c:  # each weight of a tile: one conversion, one multiplication with its scale
        widen = 2 * bn / (gpu.vector_flop_per_s / gpu.processors * together * c["widen_share"]) * depth
    return Cut(
        multiply=multiply * depth,
        load=load * depth,
        widen=widen,
        store=bm * bn * o / (port * c["store_share"]),
        waves=full + c["felt_waves"] * (np.ceil(full) - full),
        split=np.where(
            s > 1, c["split_s"] + added / (fed * gpu.l2_byte_per_s * c["l2_share"]), np.float32(0)
        ),
        again=_again(m * k * a, n * k * w, down, across, gpu, tiles, c["swept_columns"]),
        liked=c["tall_tiles"] * np.log(np.minimum(bm / np.clip(m, 16, SPAN), 1)),
    )


def _of_a_library(gpu: Gpu, dtype: Dtypes) -> Tiles:
    """What a library chooses from."""
    tiles = np.array((*TILES, PAIRED) if gpu.generation >= 10 else TILES, dtype=np.float32)
    rows, columns = tiles.T[:, :, None, None]
    whole = TCGEN05 if gpu.generation >= 10 else WGMMA if gpu.grouped else 0
    multiplied = np.maximum(rows, whole if dtype.name in SCALED else 0)
    one = np.float32(1)
    return Tiles(rows, columns, one, one, one, multiplied, ordered=False)


def _covering(size: Any, tile: Any, cluster: Any) -> Any:
    """Tiles that cover a size, clusters being whole; one at least, as an expert may have no row."""
    return np.maximum(np.ceil(size / (tile * cluster)), 1) * cluster


def _beyond(m: Any, bm: Any, down: Any) -> tuple[Any, Any]:
    """The share of tiles that are whole, and how many rows beyond the matrix each of the others has."""
    whole = np.floor(m / bm)
    return whole / down, (down * bm - m) / np.maximum(down - whole, 1)


def _again(a: Any, w: Any, down: Any, across: Any, gpu: Gpu, tiles: Tiles, swept: Any) -> Any:
    """Bytes of A and W that are read once more: one of them by every further sweep over the other.

    Tiles that run at once share what they read. CUTLASS 3 goes along the side that has more tiles, without
    turning back (its raster order by default); a library that chooses goes along the side that costs less.
    """
    at_once = gpu.processors / tiles.processors
    ordered = tiles.ordered
    if ordered and gpu.capability < 90:
        swept, ordered = np.maximum(swept, COHORT), False
    columns = np.maximum(swept * tiles.cluster_columns, at_once / down)
    rows = np.maximum(swept * tiles.cluster_rows, at_once / across)
    of_a = a * uncached(a, gpu.l2_bytes) * np.maximum(across / columns - 1, np.float32(0))
    of_w = w * uncached(w, gpu.l2_bytes) * np.maximum(down / rows - 1, np.float32(0))
    return np.where(across > down, of_a, of_w) if ordered else np.minimum(of_a, of_w)


def uncached(size: Any, capacity: float) -> Any:
    """Share of the bytes that the L2 does not keep from one run to the next."""
    return 1 - 1 / (1 + np.minimum(size / capacity, MANY) ** EDGE)
