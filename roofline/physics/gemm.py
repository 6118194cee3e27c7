"""Dense matrix products C[m, n] = A[m, k] W[n, k]^T: one kernel of tiles, after a quantise kernel if any.

A library cuts C into tiles and, where these are too few for the processors, also the sum over k. The time
of each candidate cut follows from the work of a tile and the waves of tiles over the processors; memory
streams beside them. Libraries choose by heuristics that are nearly right, so the time is a mean over the
candidates in which the fastest weigh most. Cuts of k are candidates of every product, however many its
tiles are: they are slower there, and the mean has little of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.base import HEAT_S, SLICES_OF_STACKS, Constant, column
from roofline.physics.gemm_cut import cut, uncached
from roofline.physics.libraries import engine_of, kernel_of, multiplies_integers, of_engine, since
from roofline.physics.model import KernelModel
from workloads.dtypes import bytes_per_element, compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

COPIES = 5.5  # of the weights, in turn, where the shipped constants were measured: 5 or 6
QUANTISED = frozenset({"fp8", "fp8_block", "mxfp8", "mxfp4", "nvfp4"})  # rows include the quantise kernel
BEFORE = ("torch._scaled_mm", "torch.scaled_mm")  # but not those of campaigns: products of quantised operands
# Early rows of SGLang's int8 quantise in plain torch (`per_token_quant_int8` of aiconfigurator's collector):
# widen, absolute, maximum, clamp, divide; divide, round, clamp, narrow. Seven of these move all of A.
PLAIN_KERNELS, PLAIN_BYTES = 9, 6 + 8 + 4 + 8 + 8 + 8 + 5
FEW = 16  # rows: the least of a tensor core's tile, up to which libraries have kernels of other kinds


class GemmModel(KernelModel):
    """The terms and their reasons are the constants' `why`."""

    kinds: ClassVar[tuple[str, ...]] = ("gemm",)
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "the roofline: FLOP at the peak or bytes from outside the L2 at the data sheet's bandwidth",
        "reached peaks": "attained share of either: power, issue slots, DRAM refresh, row misses",
        "tiles and waves": "partial tiles, and processors idle in the last wave",
        "operand delivery": "a processor's L2 port is slower than its tensor cores",
        "wave fill and epilogue": "each wave fills its pipeline and writes its tiles",
        "operands read again": "each sweep over one operand rereads what the L2 lost of the other",
        "imperfect overlap": "loads and arithmetic overlap only partly where neither dominates",
        "split over k": "adding up partial sums, times the chance that the library splits k",
        "power limit": "long products lower the clock",
        "first loads": "memory latency before the first product",
        "another kernel for few rows": "slower kernels of some libraries for one row, or split k",
        "launch": "kernel start and end",
        "quantise kernel": "a separate kernel quantises A",
    }
    family: ClassVar[tuple[str, ...]] = ("n", "k")
    ruled_by_name: ClassVar[bool] = True
    replayed: ClassVar[bool] = True
    everyone_s: ClassVar[frozenset[str]] = frozenset({"bfloat16", "float16"})  # all backends call cuBLAS

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """Of the product; of the quantise kernel and of widening weights where the format has them."""
        found = {constant.name: constant for constant in PRODUCT}
        if gpu.grouped:
            found["beyond"] = BEYOND
        elif dtype.name in self.everyone_s:
            found["few_s"] = FEWER
        if dtype.name in QUANTISED:
            found |= {constant.name: constant for constant in QUANTISE}
        if dtype.name == "fp8_block":
            found["step_s"] = SCALED_STEP
        if dtype.name == "fp8":
            found["scale_s"] = SCALE
        if dtype.name.endswith("_wo"):
            found |= {constant.name: constant for constant in (*QUANTISE, WIDEN)}
        return tuple(found.values())

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Seconds, from the roofline of what lies in memory to launch and quantise kernel.

        Arrays are (tiles, splits, rows): sums over candidates then run along contiguous rows.
        """
        m, n, k = (column(rows, name).astype(np.float32) for name in ("m", "n", "k"))
        integers = multiplies_integers(engine_of(rows), dtype.name, gpu)
        if integers:
            dtype = dtype._replace(inputs="int8")
        a, w, o = (bytes_per_element(d) for d in (dtype.inputs, dtype.weights, dtype.outputs))
        c32 = {name: np.float32(value) for name, value in c.items()}
        weights, passing = n * k * w, m * k * a + m * n * o
        absent, lost = _absent(rows, weights, passing, c["resident"] * gpu.l2_bytes)
        cold = absent * weights + lost * passing
        moved = cold / gpu.dram_byte_per_s
        compute = 2 * m * n * k / gpu.peak(compute_dtype(dtype.inputs))
        hits = (weights + passing - cold) / (gpu.l2_byte_per_s * c32["slices_share"])
        memory = moved / c32["memory_share"] + hits
        if integers:
            c32.pop("widen_share", None)  # nothing is widened
        pieces = cut(rows, m, n, k, gpu, dtype, c32)
        again = memory + pieces.again / (gpu.dram_byte_per_s * c32["memory_share"])
        fed = np.maximum(np.maximum(pieces.multiply, pieces.load), pieces.widen)
        body = pieces.waves * (fed + pieces.store + c32["wave_s"])
        longer, shorter = np.maximum(body, again), np.minimum(body, again)
        joined = _p_norm(longer, shorter, c32["sharpness"])
        whole = joined + pieces.split
        score = pieces.liked - c32["choice"] * np.log(whole)
        weight = np.exp(score - score.max(axis=(0, 1)))
        weight /= weight.sum(axis=(0, 1))
        steps = {
            "ideal": np.maximum(compute, moved),
            "reached peaks": np.maximum(compute / c32["compute_share"], memory),
            "tiles and waves": np.maximum(pieces.waves * pieces.multiply, memory),
            "operand delivery": np.maximum(pieces.waves * fed, memory),
            "wave fill and epilogue": np.maximum(body, memory),
            "operands read again": longer,
            "imperfect overlap": joined,
            "split over k": whole,
        }
        parts = _waterfall(steps, weight)
        busy = (compute / c["compute_share"]).astype(np.float64)
        parts["power limit"] = c["sustained"] * busy * busy / (busy + HEAT_S)
        parts["first loads"] = c["first_load_s"] * absent.astype(np.float64)
        parts["launch"] = np.full(len(m), c["launch_s"])
        few_s = np.where((m > 1) & (m <= FEW), c.get("few_s", 0.0), 0.0)
        parts["another kernel for few rows"] = np.where(m == 1, c["vector_s"], few_s)
        if (integers or dtype.name in QUANTISED) and not kernel_of(rows).startswith(BEFORE):
            parts["quantise kernel"] = _quantise_s(rows, m, k, gpu, dtype, c)
        return parts


def _p_norm(longer: Any, shorter: Any, sharpness: Any) -> Any:
    """By logarithms: a power, or log1p, costs five times an exponential."""
    overlap = np.log(1 + np.exp(sharpness * np.log(shorter / longer))) / sharpness
    return longer * np.exp(overlap)


def _waterfall(steps: Mapping[str, Any], weight: Any) -> dict[str, Floats]:
    """What each step adds to the one before, in the weighted mean over candidates of (tiles, splits)."""
    parts: dict[str, Floats] = {}
    before: Any = 0.0
    for name, seconds in steps.items():
        mean = seconds if seconds.ndim == 1 else np.einsum("tsr,tsr->r", seconds, weight)
        mean = np.maximum(mean.astype(np.float64), before)
        parts[name], before = mean - before, mean
    return parts


def _quantise_s(rows: Columns, m: Any, k: Any, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> Floats:
    """Maximum, scale and conversion of A: as fast as its threads are, but for what the memory must bring.

    TensorRT-LLM looks for one scale of all of A first, and so reads it twice
    (`invokeComputeScalesAndQuantizeMatrix` in its cudaFp8Utils.cu).
    """
    of_all = dtype.name == "fp8" and engine_of(rows) == "trtllm"
    plain = _early(rows) & (dtype.name not in QUANTISED)
    kernels = np.where(plain, PLAIN_KERNELS, 1)
    each = np.where(plain, PLAIN_BYTES, 2 * (1 + of_all) + bytes_per_element(dtype.inputs))
    size = (m * k * each).astype(np.float64)
    seconds = size / (gpu.dram_byte_per_s * c["quantise_share"])
    if dtype.name in QUANTISED:
        seconds = np.maximum(seconds, size * uncached(size, gpu.l2_bytes) / gpu.dram_byte_per_s)
    starts = kernels * c["launch_s"] + (c["scale_s"] if of_all else 0.0)
    return np.asarray(starts + c["quantise_row_s"] * m + seconds)


def _early(rows: Columns) -> Any:
    """SGLang's rows before 0.5.10, which another benchmark measured: by one copy of the weights."""
    if not {"version", "backend"} <= set(rows):
        return np.zeros(len(rows["m"]), dtype=bool)
    return of_engine(rows, "sglang") & ~since(rows, 0, 5, 10)


def _absent(rows: Columns, weights: Any, passing: Any, kept_bytes: float) -> tuple[Any, Any]:
    """The shares of the weights, and of what else is read and written, that the L2 does not hold.

    Between two uses of a weight its other copies are read, in a model all other layers: infinitely many.
    Activations of a model were written by the kernel before; those of a benchmark are lost as weights are.
    """
    size, copies = weights + passing, _copies(rows)
    absent = uncached(size + (copies - 1) * weights, kept_bytes)
    return absent, np.where(np.isinf(copies), uncached(size, kept_bytes), absent)


def _copies(rows: Columns) -> Any:
    """Of the weights, that take turns; where the rows do not say, those of the tables' benchmarks."""
    said = column(rows, "copies")
    return np.where(said > 0, said, np.where(_early(rows), 1.0, COPIES)).astype(np.float32)


PRODUCT = (
    Constant("launch_s", "s", 1e-6, 4e-5, 2.5e-6, "kernel start and end inside a CUDA graph"),
    Constant("vector_s", "s", 1e-9, 4e-5, 1e-8, "extra time of the library's kernel for one row", "library"),
    Constant("first_load_s", "s", 1e-8, 5e-6, 5e-7, "latency of the first loads from memory"),
    Constant("wave_s", "s", 1e-8, 3e-6, 2e-7, "filling and draining a tile's pipeline", "1/clock persistent"),
    Constant("step_s", "s", 1e-9, 8e-8, 4e-8, "latency of one main-loop step", "1/clock"),
    Constant("compute_share", "", 0.3, 1.1, 0.8, "share of the tensor peak: power, issue slots", "power"),
    Constant("sustained", "", 0.0, 0.3, 0.05, "clock lost under the power limit", "heat"),
    Constant("memory_share", "", 0.5, 1.05, 0.85, "share of the memory bandwidth in streaming", "stream"),
    Constant("l2_share", "", 0.1, 2.0, 0.7, "share of the L2 port; higher with clusters", "clusters"),
    Constant(
        "slices_share", "", 0.1, SLICES_OF_STACKS, 0.4, "L2 slice bandwidth over that of all ports", "slices"
    ),
    Constant("store_share", "", 0.05, 5.0, 0.4, "share of the L2 port for writing results", "clusters"),
    Constant("split_s", "s", 1e-8, 1e-3, 2e-6, "reduction of split-k sums; large where none is split"),
    Constant("felt_waves", "", 0.02, 1.0, 0.5, "lost share of an unfilled wave", "persistent"),
    Constant("resident", "", 0.3, 1.0, 0.7, "share of the L2 that holds operands", "whole"),
    Constant("swept_columns", "", 0.5, 64.0, 4.0, "sweeps of tiles that run together, in clusters"),
    Constant("small_tiles", "", 0.5, 1.0, 0.95, "efficiency factor per halving of the tile"),
    Constant("tall_tiles", "", 0.01, 100.0, 0.5, "preference for tiles as tall as m", "library"),
    Constant("choice", "", 2.0, 200.0, 14.0, "reliability of picking the fastest candidate", "library"),
    Constant("sharpness", "", 1.0, 20.0, 4.0, "overlap of loads and arithmetic (p-norm exponent)"),
)
# TMA also requests rows of a tile beyond the matrix from the L2 ("TMA L2 OOB bound" in DeepGEMM's
# heuristics): 257 rows in tiles of 128 take longer than 512.
BEYOND = Constant("beyond", "", 0.01, 20.0, 1.0, "L2 cost of a tile's row beyond the matrix, relative")
# cuBLAS on Ampere has an untiled kernel for one row and splits k for a few more, with a second kernel for the
# reduction (`splitKreduce` in traces). On later GPUs the GEMM itself reduces.
FEWER = Constant("few_s", "s", 1e-9, 4e-6, 1e-7, "extra time for 2 to 16 rows over one row", "library")
QUANTISE = (
    Constant("quantise_row_s", "s", 1e-11, 1e-7, 3e-10, "latency of a row's thread block / resident blocks"),
    Constant("quantise_share", "", 0.02, 2.0, 0.5, "quantising rate over the memory bandwidth", "threads"),
)
# Its sum is scaled and added to the one before, which waits for the products: 0.13 us on an H100.
SCALED_STEP = Constant("step_s", "s", 1e-9, 4e-7, 1e-7, "latency of a step whose sum is scaled", "1/clock")
SCALE = Constant("scale_s", "s", 1e-7, 5e-5, 5e-6, "memset and maximum where A has one scale")
WIDEN = Constant("widen_share", "", 0.01, 10.0, 0.3, "share of the vector peak for widening weights")
