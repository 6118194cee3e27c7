"""Dense matrix products C[m, n] = A[m, k] W[n, k]^T: one kernel of tiles, after a quantise kernel if any.

A library cuts C into tiles and, where these are too few for the processors, also the sum over k. The time
of each candidate cut follows from the work of a tile and the waves of tiles over the processors; memory
streams beside them. Libraries choose by heuristics that are nearly right, so the time is a mean over the
candidates in which the fastest weigh most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from roofline.physics.base import Constant, column
from workloads.dtypes import bytes_per_element, compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

# Rows and columns of C that one thread block computes: what CUTLASS and cuBLAS ship for 16-bit products.
TILES = (
    *((16, 64), (32, 64), (32, 128), (64, 64), (64, 128), (64, 256)),
    *((128, 64), (128, 128), (128, 256), (256, 128)),
)
PAIRED = (256, 256)  # two processors on one tile, since Blackwell (CUTLASS, tcgen05 cta_group::2)
SPLITS = (1, 2, 4, 8, 16)  # parts of the sum over k
DEPTH_BYTES = 128  # of k per step of the main loop: the widest swizzle of shared memory
LEAST_ROWS = 64  # that one matrix instruction of a warp group multiplies (PTX ISA, wgmma); smaller tiles pad
SPAN = 128  # rows; a tile as tall as this is tall enough
COPIES = 5.5  # weights are rotated over 5 or 6 copies where the shipped constants were measured
EDGE = 8  # sharpness of the edge between what stays in the L2 and what does not
QUANTISED = frozenset({"fp8", "fp8_block", "nvfp4"})  # rows of tables include the quantise kernel


class _Cut(NamedTuple):
    """Candidates against rows: seconds of one tile's limits, and how many waves of tiles there are."""

    multiply: Any
    load: Any
    widen: Any
    store: Any
    waves: Any
    split: Any
    again: Any  # bytes of A that are read once more per sweep
    liked: Any  # log weight of the library's preference for tall tiles


class GemmModel:
    """The terms and their reasons are the constants' `why`."""

    kinds: ClassVar[tuple[str, ...]] = ("gemm",)
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "the roofline: FLOP at the peak or bytes at the data sheet's bandwidth",
        "reached peaks": "what kernels reach of either: power, issue slots, refresh and row misses",
        "tiles and waves": "tiles stand out over C; the last wave leaves processors without one",
        "operand delivery": "a processor's port to the L2 brings fewer operands than its tensor core takes",
        "wave fill and epilogue": "each wave fills its pipeline and writes its tiles out",
        "activations read again": "sweeps over W read an A again that the L2 cannot keep",
        "imperfect overlap": "loads do not hide wholly behind arithmetic where both are long",
        "split over k": "few tiles: the sum over k is split and its parts are added up",
        "first loads": "latency of memory before the first product",
        "launch": "start and end of the kernel",
        "quantise kernel": "A is brought to the narrow format by a kernel of its own",
    }
    family: ClassVar[tuple[str, ...]] = ("n", "k")

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Of the product; of the quantise kernel and of widening weights where the format has them."""
        found = [*PRODUCT]
        if dtype.name in QUANTISED:
            found += QUANTISE
        if dtype.name.endswith("_wo"):
            found += WIDEN
        return tuple(found)

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Seconds, from the roofline of what lies in memory to launch and quantise kernel."""
        m, n, k = (column(rows, name).astype(np.float32)[:, None] for name in ("m", "n", "k"))
        a, w, o = (bytes_per_element(d) for d in (dtype.inputs, dtype.weights, dtype.outputs))
        absent = _absent(COPIES * n * k * w + m * k * a + m * n * o, c["resident"] * gpu.l2_bytes)
        moved = absent * (m * k * a + n * k * w + m * n * o) / gpu.dram_byte_per_s
        compute = 2 * m * n * k / gpu.peak(compute_dtype(dtype.inputs))
        cut = _cut(m, n, k, gpu, dtype, c)
        memory = moved / c["memory_share"]
        again = memory + cut.again * absent / (gpu.dram_byte_per_s * c["memory_share"])
        tile = cut.multiply
        fed = np.maximum(np.maximum(tile, cut.load), cut.widen)
        body = cut.waves * (fed + cut.store + c["wave_s"])
        longer, shorter = np.maximum(body, again), np.minimum(body, again)
        whole = longer * (1 + (shorter / longer) ** c["sharpness"]) ** (1 / c["sharpness"]) + cut.split
        score = cut.liked - c["choice"] * np.log(whole)
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        # Each step adds one effect; the differences are the parts.
        steps = {
            "ideal": np.maximum(compute, moved),
            "reached peaks": np.maximum(compute / c["compute_share"], memory),
            "tiles and waves": np.maximum(cut.waves * tile, memory),
            "operand delivery": np.maximum(cut.waves * fed, memory),
            "wave fill and epilogue": np.maximum(body, memory),
            "activations read again": longer,
            "imperfect overlap": whole - cut.split,
            "split over k": whole,
        }
        parts, before = {}, np.zeros(len(m))
        for name, seconds in steps.items():
            mean = np.asarray((seconds * weight).sum(axis=1, dtype=np.float64))
            mean = np.maximum(mean, before)
            parts[name], before = mean - before, mean
        parts["first loads"] = c["first_load_s"] * absent[:, 0].astype(np.float64)
        parts["launch"] = np.full(len(m), c["launch_s"])
        if dtype.name in QUANTISED:
            size = (m * k)[:, 0].astype(np.float64) * (2 + a) / (gpu.dram_byte_per_s * c["quantise_share"])
            parts["quantise kernel"] = c["quantise_s"] + c["quantise_row_s"] * m[:, 0] + size
        return parts


def _cut(m: Any, n: Any, k: Any, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> _Cut:
    """Every candidate's limits. One processor has its share of the tensor peak and one port to the L2."""
    tiles = (*TILES, PAIRED) if gpu.capability >= 100 else TILES
    bm, bn, s = np.array([(*t, s) for t in tiles for s in SPLITS], dtype=np.float32).T[:, None, :]
    a, w, o = (bytes_per_element(d) for d in (dtype.inputs, dtype.weights, dtype.outputs))
    step = DEPTH_BYTES / a
    depth = np.ceil(k / (s * step)) * step
    down, across = np.ceil(m / bm), np.ceil(n / bn)
    full = np.maximum(down * across * s / gpu.processors, 1)
    port = gpu.l2_byte_per_s / gpu.processors
    peak = gpu.peak(compute_dtype(dtype.inputs)) / gpu.processors * c["compute_share"]
    halvings = np.log2(32_768 / np.maximum(bm * bn, 4096)).clip(0)
    swept = np.maximum(c["swept_columns"], gpu.processors / down)
    beyond = _absent(m * k * a, gpu.l2_bytes)
    widen: Any = np.float32(0)
    if "widen_share" in c:  # each weight of a tile: one conversion, one multiplication with its scale
        widen = 2 * bn * depth / (gpu.vector_flop_per_s / gpu.processors * c["widen_share"])
    return _Cut(
        multiply=2 * np.maximum(bm, LEAST_ROWS) * bn * depth / (peak * c["small_tiles"] ** halvings),
        load=(bm * a + bn * w) * depth / (port * c["l2_share"]),
        widen=widen,
        store=bm * bn * o / (port * c["store_share"]),
        waves=full + c["felt_waves"] * (np.ceil(full) - full),
        split=np.where(s > 1, c["split_s"] + 8 * m * n * s / (gpu.l2_byte_per_s * c["l2_share"]), 0),
        again=m * k * a * beyond * np.maximum(across / swept - 1, 0),
        liked=c["tall_tiles"] * np.log(np.minimum(bm / np.clip(m, 16, SPAN), 1)),
    )


def _absent(size: Any, capacity: float) -> Any:
    """Share of the bytes that the L2 does not keep from one run to the next."""
    return 1 - 1 / (1 + (size / capacity) ** EDGE)


PRODUCT = (
    Constant("launch_s", "s", 1e-6, 4e-5, 2.5e-6, "start and end of the kernel inside a CUDA graph"),
    Constant("first_load_s", "s", 1e-8, 5e-6, 5e-7, "latency of the first loads, those from memory"),
    Constant(
        "wave_s", "s", 1e-8, 3e-6, 2e-7, "filling the pipeline of a tile and draining it, per wave", "1/clock"
    ),
    Constant("compute_share", "", 0.3, 1.1, 0.8, "share of the tensor peak in main loops: power, issue"),
    Constant("memory_share", "", 0.5, 1.05, 0.85, "share of the memory bandwidth that a stream reaches"),
    Constant(
        "l2_share", "", 0.1, 2.0, 0.7, "share of a processor's L2 port; above 1 clusters share their operands"
    ),
    Constant("store_share", "", 0.05, 5.0, 0.4, "share of the port when results are written"),
    Constant("split_s", "s", 1e-8, 1e-3, 2e-6, "adding up parts of a split sum; large where none is"),
    Constant("felt_waves", "", 0.02, 1.0, 0.5, "share of an unfilled wave that is lost: less with stream-K"),
    Constant("resident", "", 0.1, 3.0, 0.7, "share of the L2 that keeps operands between runs"),
    Constant("swept_columns", "", 0.5, 64.0, 4.0, "columns of tiles that are computed together, of one A"),
    Constant("small_tiles", "", 0.5, 1.0, 0.95, "efficiency that each halving of a tile leaves"),
    Constant("tall_tiles", "", 0.01, 100.0, 0.5, "how much the library wants tiles as tall as m"),
    Constant("choice", "", 2.0, 200.0, 14.0, "how surely the library picks the fastest candidate"),
    Constant("sharpness", "", 1.0, 20.0, 4.0, "how well loads hide behind arithmetic where both are long"),
)
QUANTISE = (
    Constant("quantise_s", "s", 1e-8, 2e-5, 2e-6, "start of the kernel that quantises A"),
    Constant("quantise_row_s", "s", 1e-11, 1e-7, 3e-10, "a thread block per row: its latency / all blocks"),
    Constant("quantise_share", "", 0.02, 2.0, 0.5, "share of the memory bandwidth when A is quantised"),
)
WIDEN = (Constant("widen_share", "", 0.01, 10.0, 0.3, "share of the vector peak that widens weights"),)
