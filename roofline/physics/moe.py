"""The routed-experts layer of one rank: routing, permutation, two grouped products, activation, combination.

Each expert's tokens are padded to whole tiles; tiles are served in waves by the processors; a tile is fed
from the L2 and the weights of touched experts come from memory, again for each row of tiles where one
expert's matrix does not fit into the L2. The tile's rows are those that the model itself finds fastest,
except where the library takes the next power of two above the average tokens per expert (trtllm-gen).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.base import L2_BYTES_PER_CLOCK, Constant, ceil_div, column
from roofline.physics.expert_load import TILES, Load, expert_load, exponents, unpacked
from roofline.physics.libraries import library, of_engine, says, since
from roofline.physics.triton_tiles import DEFAULT_ROWS, DEFAULT_WIDTH, tuned
from workloads.dtypes import bytes_per_element, compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

WIDTHS = (64.0, 128.0, 256.0)  # columns of a tile
AVERAGE_TILE = (8.0, 64.0)  # least and most rows of a tile that is chosen by the average load
L2_SHARE = 0.5  # of the L2 that one matrix can keep beside activations and results
BLOCK_CHOICES = 256.0  # choices that one block of threads sorts at once
CONSTANTS = (
    Constant("launch_s", "s", 3e-6, 2e-4, 2e-5, "the layer's small kernels, one after the other"),
    Constant("memory_share", "", 0.6, 1.0, 0.87, "share of the memory bandwidth of streamed weights"),
    Constant("compute_share", "", 0.02, 1.0, 0.6, "share of the tensor peak inside a tile"),
    Constant("l2_share", "", 0.03, 1.5, 0.7, "share of the L2 port that feeds a tile"),
    Constant("tile_s", "s", 1e-7, 3e-5, 5e-7, "first loads and last stores of a tile", "1/clock"),
    Constant("least_rows", "", 8.0, 200.0, 16.0, "rows that the smallest tile computes, used or not"),
    Constant("reread", "", 0.03, 1.2, 0.3, "of the rows of tiles that read a large matrix again from memory"),
    Constant("passes", "", 0.2, 10.0, 1.0, "times that chosen rows are moved by sorting and activating"),
    Constant("token_passes", "", 0.1, 20.0, 1.0, "times that all tokens are quantised, copied and summed"),
    Constant("expert_s", "s", 1e-9, 1e-6, 3e-8, "offsets and descriptors of one of its experts", "1/clock"),
    Constant("choice_s", "s", 1e-11, 2e-8, 5e-10, "sorting one choice of the router", "1/clock"),
    Constant("sort_s", "s", 1e-7, 2e-5, 5e-6, "further kernels that sort more choices than one block can"),
    Constant("elsewhere", "", 1e-3, 1.3, 0.03, "cost of a token's choice that another rank serves"),
)


class MoeModel:
    """See the module; the constants say what each term is."""

    kinds: ClassVar[tuple[str, ...]] = ("moe",)
    family: ClassVar[tuple[str, ...]] = ("hidden", "inter", "topk", "num_experts")
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "the experts' products and weights at the data sheet's peaks",
        "reached": "shares of the peaks that the grouped products reach",
        "tiles": "experts' tokens padded to tiles, waves of them, matrices that are read again",
        "around": "rows moved by permuting, quantising, activating and combining",
        "routing": "sorting the router's choices",
        "launch": "start of the layer's kernels",
    }

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all formats."""
        return CONSTANTS

    def library(self, kernel: str) -> str:
        """The library of a kernel: what its constants have in common with those of others."""
        return library(kernel)

    def prepared(self, rows: Columns) -> Columns:
        """The rows with their loads, which are counted once for all rows that differ."""
        load = rank_load(rows)
        return {**rows, "load": np.vstack([load.chosen, load.touched, load.tokens, load.tiles])}

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Ideal roofline, what shares of the peaks cost, tiles and waves, then the kernels around them.

        A row with a `share` is that part of a layer: one of its two products, where they are listed apart.
        """
        layer = _Layer(rows, gpu, dtype, c)
        compute = layer.flops / gpu.peak(compute_dtype(dtype.inputs))
        memory = layer.weight_bytes / gpu.dram_byte_per_s
        ideal = np.maximum(compute, memory)
        reached = _overlapped(compute / c["compute_share"], memory / c["memory_share"])
        products = layer.products_s()
        share = column(rows, "share", 1.0)
        found = {
            "ideal": ideal,
            "reached": reached - ideal,
            "tiles": np.maximum(products - reached, 0.0),
            "around": layer.around_s(),
            "routing": layer.routing_s(),
            "launch": np.full(len(ideal), c["launch_s"]),
        }
        return {name: share * seconds for name, seconds in found.items()}


class _Layer:
    """The sizes of the rows' layers on this rank, and the time of their two grouped products."""

    def __init__(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> None:
        self.gpu, self.dtype, self.c = gpu, dtype, c
        self.tokens, self.top_k = column(rows, "num_tokens"), column(rows, "topk")
        self.experts, ranks = column(rows, "num_experts"), _ranks(rows)
        self.hidden = column(rows, "hidden")
        self.width = column(rows, "inter") / column(rows, "moe_tp", 1.0)
        self.load = unpacked(rows["load"]) if "load" in rows else rank_load(rows)
        self.by_average = says(rows, "trtllm_", "min_latency", "mxfp4_flashinfer") & ~says(rows, "cutlass")
        # Triton's fused kernel knows gated layers only: a layer without a gate runs at the gate's width.
        gated = (column(rows, "gated", 1.0) > 0) | says(rows, "fused_moe", "triton")
        self.ups = np.where(gated, 2.0, 1.0)
        self.rank_experts = self.experts / ranks
        self.by_default = self._untuned(rows)
        # SGLang serves the choices of other ranks as those of one more expert of its own: up to
        # 0.5.10 it multiplied them, since then it only reads weights for them.
        strangers = of_engine(rows, "sglang") & says(rows, "fused_moe") & (ranks > 1)
        self.touched = self.load.touched + strangers
        far = np.maximum(self.load.tokens * self.top_k - self.load.chosen, 0.0)
        skipped = (strangers & since(rows, 0, 5, 11)) | (of_engine(rows, "vllm") & says(rows, "marlin"))
        far = np.where(skipped, 0.0, far)
        self.far = c["elsewhere"] * far  # rows of other ranks' experts that the kernel does not skip
        self.rows = self.load.chosen + self.far
        self.weight = float(bytes_per_element(dtype.weights))
        self.matrix = np.stack([self.ups * self.width * self.hidden, self.hidden * self.width])
        self.weight_bytes = self.touched * self.matrix.sum(axis=0) * self.weight
        self.flops = 2 * self.load.chosen * self.matrix.sum(axis=0)

    def _untuned(self, rows: Columns) -> Any:
        """Rows of a fused Triton kernel at 16 bits whose tile its engine did not tune.

        SGLang, and vLLM before 0.15, take one tile for all of these; later ones go by the number of tokens.
        """
        plain = self.dtype.inputs == self.dtype.weights == "bf16"
        fixed = of_engine(rows, "sglang") | (of_engine(rows, "vllm") & ~since(rows, 0, 15))
        fixed &= says(rows, "fused_moe") & plain
        if not fixed.any():
            return fixed
        recent = since(rows, 0, 5, 11)
        return fixed & ~tuned(self.gpu.name, self.rank_experts, self.width, recent)

    def around_s(self) -> Any:
        """Passes over all tokens, wherever their experts are, and over rows of this rank, at two bytes."""
        between = self.rows * (2 * self.hidden + (self.ups + 1) * self.width)
        moved = self.c["token_passes"] * self.tokens * self.hidden + self.c["passes"] * between
        return 2 * moved / self.gpu.dram_byte_per_s

    def routing_s(self) -> Any:
        """Sorting the choices: further kernels beyond what one block sorts, a part per choice and expert."""
        c, choices = self.c, self.tokens * self.top_k
        sorting = c["sort_s"] * choices / (choices + BLOCK_CHOICES) + c["choice_s"] * choices
        return sorting + c["expert_s"] * self.rank_experts

    def products_s(self) -> Floats:
        """Both products by the tile that the library takes."""
        times = self._by_tile(WIDTHS).sum(axis=0)  # [tiles, rows]
        fastest = times.min(axis=0)
        if self.by_default.any():
            few, many = (TILES.index(int(size)) for size in DEFAULT_ROWS)
            small = self._by_tile((DEFAULT_WIDTH,)).sum(axis=0)
            small = np.where(self.tokens <= self.rank_experts, small[few], small[many])
            fastest = np.where(self.by_default, small, fastest)
        if not self.by_average.any():
            return np.asarray(fastest)
        average = np.maximum(self.tokens * self.top_k / self.experts, 1.0)
        size = np.clip(np.exp2(np.ceil(np.log2(average))), *AVERAGE_TILE)
        taken = (np.log2(size) - np.log2(TILES[0])).astype(np.intp)
        return np.asarray(
            np.where(self.by_average, np.take_along_axis(times, taken[None], axis=0)[0], fastest)
        )

    def _by_tile(self, widths: Sequence[float]) -> Floats:
        """[product, tile, row] seconds: tiles in waves beside the stream of weights."""
        c, gpu = self.c, self.gpu
        size = np.array(TILES, dtype=np.float64)[:, None]
        tiles = self.load.tiles + self.far / size
        n = np.stack([self.ups * self.width, self.hidden])[:, None]
        k = np.stack([self.hidden, self.width])[:, None]
        element = float(bytes_per_element(self.dtype.inputs))
        expert = (self.matrix * self.weight)[:, None]
        missed = np.clip(1 - L2_SHARE * gpu.l2_bytes / expert, 0.0, 1.0)
        again = c["reread"] * missed * np.maximum(tiles - self.touched, 0.0)
        streamed = (self.touched + again) * expert + self.rows * (element * k + 2 * n)
        per_wave = tiles / gpu.processors
        busy: Any = np.inf
        for width in widths:
            waves = np.maximum(1.0, per_wave * ceil_div(n, width))
            busy = np.minimum(busy, waves * (k * self._step_s(size, width, element) + c["tile_s"]))
        return _overlapped(busy, streamed / (c["memory_share"] * gpu.dram_byte_per_s))

    def _step_s(self, size: Floats, width: float, element: float) -> Any:
        """[tile, 1] seconds per element of k of one tile on one processor."""
        c, gpu = self.c, self.gpu
        rows = np.maximum(size, c["least_rows"])
        peak = c["compute_share"] * gpu.peak(compute_dtype(self.dtype.inputs)) / gpu.processors
        port = c["l2_share"] * L2_BYTES_PER_CLOCK * gpu.clock_hz
        return np.maximum(2 * rows * width / peak, (rows * element + width * self.weight) / port)


def _overlapped(busy: Floats, streamed: Floats) -> Floats:
    """The 3-norm of tiles and streams of weights: grouped products hide most of the shorter one."""
    return np.asarray(np.cbrt(busy * busy * busy + streamed * streamed * streamed))


def rank_load(rows: Columns) -> Load:
    """The load of the measured rank of each row: by the name of its distribution, else by its exponent."""
    tokens, experts, top_k = (column(rows, name) for name in ("num_tokens", "num_experts", "topk"))
    ranks = _ranks(rows)
    if "exponent" in rows:
        return expert_load(tokens, experts, top_k, ranks, column(rows, "exponent"))
    names = np.asarray(rows.get("distribution", np.full(len(rows["num_tokens"]), "")))
    alpha = exponents(names)
    return expert_load(tokens, experts, top_k, ranks, alpha)


def _ranks(rows: Columns) -> Any:
    """Ranks that experts are spread over; one kernel holds them all, whatever its caller asks for."""
    return np.where(says(rows, "vllm_mxfp4_moe"), 1.0, column(rows, "moe_ep", 1.0))
