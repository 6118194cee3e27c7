"""What a layer of routed experts costs a rank: tiles of two grouped products, and the kernels around them.

Each expert's tokens are padded to whole tiles; tiles are served in waves by the processors; a tile is fed
from the L2 and the weights of touched experts come from memory, again for each row of tiles where one
expert's matrix does not fit into the L2. The tile's rows are those that the model itself finds fastest,
except where the library's own rule is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics import cutlass_tiles, triton_tiles
from roofline.physics.base import (
    L2_BYTES_PER_CLOCK,
    SHARED_BYTES_PER_CLOCK,
    WARP_FLOP_PER_CLOCK,
    WARP_ROWS,
    Constant,
    ceil_div,
    column,
)
from roofline.physics.expert_load import GROUPED, GROUPS, TILES, Load, expert_load, exponents, unpacked
from roofline.physics.generated_tiles import COLUMNS, launched, padded
from roofline.physics.libraries import UNPACKED, WIDENED, of_engine, of_marlin, says, since
from roofline.physics.tile_search import TCGEN05, WGMMA
from workloads.dtypes import bytes_per_element, compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

WIDTHS = (64.0, 128.0, 256.0)  # columns of a tile
L2_SHARE = 0.5  # of the L2 that one matrix can keep beside activations and results
BLOCK_CHOICES = 256.0  # choices that one block of threads sorts at once
# Operands of 8 bits in blocks have a scale every 128 of k, by which the vector units multiply what the tensor
# cores summed up. Instructions for each sum: one where a row has one factor, the product of both scales
# (DeepGEMM's `final_accum`, SGLang's `fused_moe_kernel` up to 128 columns). Where each column has its own
# (`b_scale[None, :]` in vLLM's, tokens in generated kernels, whose columns they are), two, and what brings it
# for both rows that a thread holds of a product (mma, wgmma) or the one that it holds of tensor memory.
# Bringing takes as long as two: Triton's products on an H20, where one is 5 % of the tensor cores' time, took
# 8 to 10 % longer than DeepGEMM's, as three do than one (vllm-project/vllm pull request 49932).
# Blackwell's tensor cores apply the scales of DeepGEMM, powers of two, themselves.
SCALED_K = 128.0
SCALINGS, COLUMN_SCALINGS, BRINGING = 1.0, 2.0, 2.0
BLOCK_COLUMNS = (128.0,)  # of tiles with one scale of weights for each step
# Rows of Triton's tiles, which hold sums and products in registers: 16 to 64 in tuned files (vLLM's of H100,
# H200 and B200); and tiles of TensorRT-LLM's blocks on Hopper (`get_best_gemm_config`, as in tile_search).
SUMMED_ROWS, SUMMED_ON_HOPPER = (16.0, 32.0, 64.0), (64.0, 128.0)
COLUMNS_ON_HOPPER = (16.0, 32.0, 64.0, 128.0)
# vLLM's Triton kernel for weights of 4 bits widens each of them by the vector units, in each tile again: it
# shifts, masks, makes it a float, subtracts, multiplies by a scale and makes it 16 bits. Each loads its own
# scale: two instructions for the address, the load, to float (`fused_moe_kernel_gptq_awq`, fused_moe.py).
# Counted in turns of a processor's 128 lanes: integers (4) and conversions (3) go at 64 a clock, loads at 32,
# floats (2) at 128 (CUDA C++ Programming Guide, arithmetic throughput; a load/store unit for 4 lanes).
WIDENING = 7 * 2.0 + 4.0 + 2.0
# Beside activations of 16 bits generated kernels have warps that only widen mxfp4, for each tile again: to
# fp16 in pairs (all that e2m1x2 converts to, PTX ISA), to fp32, to bf16 in pairs, times a scale in pairs, and
# an eighth of a load and of a store.
CASTING = 2.75
# Instructions of single warps (mma.sync) take operands from registers: those of a tile are written to shared
# memory once, and each warp reads what its part of the tile needs. Warps stand in a square where there are 16
# rows for each (`warpsPerTileV2` in Triton); a tile of up to 64 x 128 has four, a larger one eight (tuned
# files and defaults of fused_moe.py, CUTLASS's tiles for sm80).
MOST_OF_FOUR_WARPS = 64.0 * 128.0
# TensorRT-LLM's products of 8 bits in blocks on Hopper, which FlashInfer's CUTLASS has, too, are given 16
# bits, and quantise the rows of either by a kernel of one block of 256 threads a processor, whose warps take
# 128 values a turn and wait for them (`scale_1x128_kernel` of `fp8_grouped_gemm_run`, fp8_blockscale_gemm).
# Clocks of a turn: 479 of a load from memory (Luo et al., 2024), 150 of five shuffles and maxima, 90 of two
# divisions, 60 of four results, 80 of addresses and the loop; at 1.98 GHz. A busy memory takes longer, twice
# at most: what is more belongs to the passes of the kernels around, which are those of other formats.
QUANTISING_WARPS = 8.0
TURN = Constant("turn_s", "s", 2e-7, 8.6e-7, 4.3e-7, "128 values that a warp loads and quantises", "1/clock")


class Layer:
    """The sizes of the rows' layers on this rank, and what they cost by given constants."""

    def __init__(self, rows: Columns, gpu: Gpu, dtype: Dtypes) -> None:
        self.gpu, self.dtype = gpu, dtype
        self.tokens, self.top_k = column(rows, "num_tokens"), column(rows, "topk")
        self.experts, ranks = column(rows, "num_experts"), _ranks(rows)
        self.hidden, self.share = column(rows, "hidden"), column(rows, "share", 1.0)
        self.replayed = np.isfinite(column(rows, "copies", 1.0))  # with nothing else in between
        self.width = column(rows, "inter") / column(rows, "moe_tp", 1.0)
        self.load = unpacked(rows["load"]) if "load" in rows else rank_load(rows)
        # In tables every rank is given all tokens; what was sent to a rank has an expert there.
        self.tokens = np.where(column(rows, "dispatched") > 0, self.load.tokens, self.tokens)
        # Engines' functions around Triton's fused kernel know gated layers only: one without a gate runs at
        # the gate's width. vLLM's class for it (TritonExperts) knows both.
        self.unpacks = says(rows, UNPACKED)
        self.fused = says(rows, "fused_moe", "tritonexperts") | self.unpacks
        gated = (column(rows, "gated", 1.0) > 0) | says(rows, "fused_moe")
        self.ups = np.where(gated, 2.0, 1.0)
        self.rank_experts = self.experts / ranks
        sizes = self.tokens, self.top_k, self.rank_experts
        self.by_launcher, self.candidates = launched(rows, *sizes, gpu, dtype)
        self.casts = self.by_launcher & (dtype.inputs == "bf16") & (dtype.weights != "bf16")
        self.activates = self.by_launcher & (dtype.name != "fp8_block")
        self.widened = says(rows, WIDENED) & ("mxfp4" in dtype.weights)
        self.by_default, self.default = self._untuned(rows)
        self.quantises = says(rows, "cutlass") & quantises_by_turns(gpu, dtype)
        # SGLang serves the choices of other ranks as those of one more expert of its own: up to
        # 0.5.10 it multiplied them, since then it only reads weights for them.
        sglang = of_engine(rows, "sglang") & says(rows, "fused_moe")
        strangers = sglang & (ranks > 1)
        self.touched = self.load.touched + strangers
        # Kernels around them took 10 us more up to then (medians of pairs of rows), and still do on a share.
        self.mapped = np.asarray(strangers | (sglang & ~since(rows, 0, 5, 11)), dtype=np.float64)
        far = np.maximum(self.load.tokens * self.top_k - self.load.chosen, 0.0)
        self.marlin = of_marlin(rows)
        vllm = of_engine(rows, "vllm")
        skipped = strangers | (vllm & self.marlin)
        # vLLM sorts by all experts of the layer and maps those of other ranks to none (`global_num_experts`
        # and `expert_map` of `moe_align_block_size`).
        self.sorted = np.where(vllm & (self.fused | self.marlin), self.experts, self.rank_experts)
        self.strange = np.where(skipped, 0.0, far)  # rows of other ranks' experts that may not be skipped
        self.served = np.where(strangers & ~since(rows, 0, 5, 11), far, 0.0)  # and those that never are
        self.weight = np.where(self.widened, 2.0, bytes_per_element(dtype.weights))
        needed = (self.ups + 1) * self.width * self.hidden
        self.flops = 2 * self.load.chosen * needed
        self.needed_bytes = self.touched * needed * self.weight
        self.hidden, self.width = padded(self.hidden, self.width, self.by_launcher, rows, dtype)
        self.matrix = np.stack([self.ups * self.width * self.hidden, self.hidden * self.width])
        self.scaled = self._scalings(rows)
        self.by_warps = not gpu.grouped and not self.marlin.any()
        self.rows, self.columns = self._tiles()
        self.tensor = self._peak(rows)
        # One instruction of a vector unit is two FLOP, and stands for 2 x 128 of the tensor cores.
        self.peak = 1 / (1 / self.tensor + self.scaled / (SCALED_K * gpu.vector_flop_per_s))
        self.weight_bytes = self.touched * self.matrix.sum(axis=0) * self.weight

    def parts(self, c: Mapping[str, float]) -> dict[str, Floats]:
        """Named seconds, as `MoeModel.parts` of `moe`."""
        compute = self.flops / self.gpu.peak(compute_dtype(self.dtype.inputs))
        reached = self.flops / (c["compute_share"] * self.peak)
        memory = self.needed_bytes / self.gpu.dram_byte_per_s
        products = self.products_s(c)
        ideal = np.minimum(np.maximum(compute, memory), products)  # a warm L2 can beat the memory's roofline
        reached = np.clip(_overlapped(reached, memory / c["memory_share"]), ideal, products)
        found = {
            "ideal": ideal,
            "reached": reached - ideal,
            "tiles": products - reached,
            "around": self.around_s(c),
            "routing": self.routing_s(c),
            "launch": c["launch_s"] + c["mapped_s"] * self.mapped,
        }
        return {name: self.share * seconds for name, seconds in found.items()}

    def _missed(self, c: Mapping[str, float]) -> Floats:
        """Of the weights, what the layer finds no longer in the L2, where nothing ran since its last time.

        What does not fit pushes out what would be read next, so that hits fall faster than weights grow.
        """
        kept = np.minimum(c["kept"] * self.gpu.l2_bytes / np.maximum(self.weight_bytes, 1.0), 1.0)
        return np.asarray(1 - self.replayed * (kept * kept) ** 2)

    def _peak(self, rows: Columns) -> Any:
        """FLOP/s that the kernel's tensor instructions reach at most."""
        peak = self.gpu.peak(compute_dtype(self.dtype.inputs))
        warps = WARP_FLOP_PER_CLOCK * self.gpu.processors * self.gpu.clock_hz
        return np.where(self.marlin, min(warps, peak), peak)

    def _scalings(self, rows: Columns) -> Any:
        """Instructions of the vector units for each sum over a block of k."""
        if self.dtype.name != "fp8_block":
            return 0.0
        by_column = self.by_launcher | self.fused & ~of_engine(rows, "sglang")
        held = 1 if self.gpu.generation >= 10 else 2
        scaled = np.where(by_column, COLUMN_SCALINGS + BRINGING / held, SCALINGS)
        return np.where(says(rows, "deepgemm") & (self.gpu.generation >= 10), 0.0, scaled)

    def _tiles(self) -> tuple[Sequence[float], Sequence[float]]:
        """Rows and columns of the tiles that a library offers; rows agree in their kernel."""
        if self.by_launcher.all():
            return TILES, (COLUMNS,)
        if self.dtype.name == "fp8_block":
            if self.fused.any():
                return SUMMED_ROWS, BLOCK_COLUMNS
            if self.gpu.generation == 9:
                return SUMMED_ON_HOPPER, COLUMNS_ON_HOPPER
        return TILES, WIDTHS

    def _multiplied(self, size: Floats, rows: Floats) -> Any:
        """Rows that a tile takes the tensor cores for: instructions of 64 leave half of Blackwell's idle.

        Triton has them for tiles of 64 (PTX ISA, tcgen05, data path layout F), generated kernels for blocks
        (`m64x16x32` in the names of those that say `dsFp8`).
        """
        if self.gpu.generation < 10:
            return rows
        halves = self.by_launcher & (self.dtype.name == "fp8_block")
        padded = np.where(self.fused & (size >= WGMMA), np.maximum(rows, TCGEN05), rows)
        return np.where(halves, TCGEN05 / WGMMA * rows, padded)

    def _untuned(self, rows: Columns) -> tuple[Any, tuple[Floats, Floats]]:
        """Rows whose tile nobody tuned, and the tile that is taken instead, where the rule is known."""
        if np.any(self.unpacks):  # rows agree in their kernel
            return self.unpacks, triton_tiles.default_tile_of_narrow(self.tokens)
        plain = self.widened | (self.dtype.inputs == self.dtype.weights == "bf16")
        layer = triton_tiles.Sizes(self.tokens, self.rank_experts, self.width)
        fused, (size, wide) = triton_tiles.untuned(rows, self.gpu.name, layer, self.dtype.name, plain)
        fused &= self.fused
        first, (most, narrow) = cutlass_tiles.untuned(rows, self.gpu, self.dtype)
        return fused | first, (np.where(first, most, size), np.where(first, narrow, wide))

    def around_s(self, c: Mapping[str, float]) -> Any:
        """Passes over all tokens, wherever their experts are, and over rows between products, at two bytes.

        Triton's fused kernel gathers rows itself and leaves those of other ranks' experts where they are, so
        that activating and summing see all choices of all tokens. Generated kernels gather, too, and activate
        in the first product, but in the format of 8 bits in blocks: no block of threads takes a routed row.
        """
        rows = np.where(self.fused, self.tokens * self.top_k, self._rows(c))
        activated = np.where(self.activates, 0.0, (self.ups + 1) * self.width)
        between = rows * (np.where(self.fused | self.by_launcher, 1, 2) * self.hidden + activated)
        moved = c["token_passes"] * self.tokens * self.hidden + c["passes"] * between
        by_rows = np.where(self.activates, 0.0, c["row_s"]) * rows + self._quantising_s(rows, c)
        return 2 * moved / self.gpu.dram_byte_per_s + by_rows

    def _quantising_s(self, rows: Any, c: Mapping[str, float]) -> Any:
        """Quantising what enters the two products by kernels of few warps, each of which waits in turns."""
        if not np.any(self.quantises):
            return 0.0
        turns = rows * (self.hidden + self.width) / (SCALED_K * QUANTISING_WARPS * self.gpu.processors)
        return self.quantises * turns * c.get(TURN.name, TURN.start)

    def _rows(self, c: Mapping[str, float]) -> Any:
        """Rows of this rank's experts, and of others' what the kernel does not skip."""
        return self.load.chosen + self.served + c["elsewhere"] * self.strange

    def routing_s(self, c: Mapping[str, float]) -> Any:
        """Sorting the choices: further kernels beyond what one block sorts, a part per choice and expert."""
        choices = self.tokens * self.top_k
        sorting = c["sort_s"] * choices / (choices + BLOCK_CHOICES) + c["choice_s"] * choices
        return sorting + c["expert_s"] * self.sorted

    def products_s(self, c: Mapping[str, float]) -> Floats:
        """Both products by the tile that the library takes: the fastest where no rule of its is known."""
        offered = [self._one_tile(size, (COLUMNS,), c) for size in self.candidates]
        if self.by_launcher.all():
            return np.asarray(np.min(offered, axis=0))
        if self.marlin.all():
            return self._one_tile(self._marlin_rows(), WIDTHS, c)
        sizes = np.array(self.rows, dtype=np.float64)[:, None]
        tiles = self.load.tiles[[TILES.index(size) for size in self.rows]]
        found = self._by_tile(sizes, tiles, self.columns, c).min(axis=0)
        if self.by_default.any():
            size, width = self.default
            found = np.where(self.by_default, self._one_tile(size, (width,), c), found)
        return np.asarray(np.where(self.by_launcher, np.min(offered, axis=0), found) if offered else found)

    def _marlin_rows(self) -> Floats:
        """The first of Marlin's tiles that the mean rows of an expert fill to less than 90 %.

        `block_size_m` in fused_marlin_moe.py of vLLM and SGLang, whose 48 are counted as 64.
        """
        mean = self.tokens * self.top_k / self.rank_experts
        return np.select([mean < 0.9 * 8, mean < 0.9 * 16, mean < 0.9 * 32], [8.0, 16.0, 32.0], 64.0)

    def _one_tile(self, size: Floats, widths: Sequence[float | Floats], c: Mapping[str, float]) -> Floats:
        """[row] seconds by a tile of so many rows, one of TILES for each row."""
        place = (np.log2(size) - np.log2(TILES[0])).astype(np.intp)
        tiles = np.take_along_axis(self.load.tiles, place[None], axis=0)
        return np.asarray(self._by_tile(size[None], tiles, widths, c)[0])

    def _by_tile(
        self, size: Floats, tiles: Floats, widths: Sequence[float | Floats], c: Mapping[str, float]
    ) -> Floats:
        """[tile, row] seconds of both products: tiles in waves beside the stream of weights."""
        gpu = self.gpu
        tiles = tiles + (self.served + c["elsewhere"] * self.strange) / size
        n = np.stack([self.ups * self.width, self.hidden])[:, None]
        k = np.stack([self.hidden, self.width])[:, None]
        element = float(bytes_per_element(self.dtype.inputs))
        expert = (self.matrix * self.weight)[:, None]
        missed = np.clip(1 - L2_SHARE * gpu.l2_bytes / expert, 0.0, 1.0)
        again = c["reread"] * missed * np.maximum(tiles - self.touched, 0.0)
        activated = np.where(self.activates, element * self.width, 2 * self.ups * self.width)
        written = np.stack([activated, 2 * self.hidden])[:, None]
        streamed = (self.touched * self._missed(c) + again) * expert + self._rows(c) * (element * k + written)
        per_wave = tiles / gpu.processors
        busy: Any = np.inf
        for width in widths:
            whole = per_wave * ceil_div(n, width)
            waves = np.maximum(1.0, whole + c["whole_waves"] * (np.ceil(whole) - whole))
            busy = np.minimum(busy, waves * (k * self._step_s(size, width, element, c) + c["tile_s"]))
        both = _overlapped(busy, streamed / (c["memory_share"] * gpu.dram_byte_per_s))
        return np.asarray(both.sum(axis=0))

    def _step_s(self, size: Floats, width: float | Floats, element: float, c: Mapping[str, float]) -> Any:
        """[tile, 1] seconds per element of k of one tile on one processor."""
        gpu = self.gpu
        rows = np.maximum(size, c["least_rows"])
        peak = c["compute_share"] * self.tensor / gpu.processors
        port = c["l2_share"] * L2_BYTES_PER_CLOCK * gpu.clock_hz
        units = gpu.vector_flop_per_s / 2 / gpu.processors
        lanes = c["compute_share"] * units
        by_vectors = self.unpacks * WIDENING / units + self.scaled * rows / SCALED_K / lanes
        multiplied = 2 * self._multiplied(size, rows) * width / peak + by_vectors * width
        multiplied = np.maximum(multiplied, self.casts * CASTING * width / lanes)
        if self.by_warps:
            shared = c["compute_share"] * SHARED_BYTES_PER_CLOCK * gpu.clock_hz
            multiplied = np.maximum(multiplied, self._shared_bytes(size, width, element) / shared)
        return np.maximum(multiplied, (rows * element + width * self.weight) / port)

    def _shared_bytes(self, size: Floats, width: float | Floats, element: float) -> Any:
        """Bytes that a tile of single warps moves through shared memory per element of k."""
        warps = np.where(size * width > MOST_OF_FOUR_WARPS, 8.0, 4.0)
        below = np.minimum(np.sqrt(warps), np.maximum(size / WARP_ROWS, 1.0))  # warps along the rows
        return (1 + warps / below) * size * element + (1 + below) * width * self.weight


def _overlapped(busy: Floats, streamed: Floats) -> Floats:
    """The 3-norm of tiles and streams of weights: grouped products hide most of the shorter one."""
    return np.asarray(np.cbrt(busy * busy * busy + streamed * streamed * streamed))


def quantises_by_turns(gpu: Gpu, dtype: Dtypes) -> bool:
    """Whether CUTLASS's products quantise their rows by QUANTISING_WARPS of a processor."""
    return dtype.name == "fp8_block" and gpu.generation == 9


def rank_load(rows: Columns) -> Load:
    """The load of the measured rank of each row: by the name of its distribution, else by its exponent."""
    tokens, experts, top_k = (column(rows, name) for name in ("num_tokens", "num_experts", "topk"))
    ranks = _ranks(rows)
    if "exponent" in rows:
        return expert_load(tokens, experts, top_k, ranks, column(rows, "exponent"))
    names = np.asarray(rows.get("distribution", np.full(len(rows["num_tokens"]), "")))
    alpha = exponents(names)
    limited = says(rows, "min_latency") & (names != "") & ((alpha == 0) | (experts == GROUPS))
    alpha = np.where(limited, GROUPED, alpha)
    return expert_load(tokens, experts, top_k, ranks, alpha)


def _ranks(rows: Columns) -> Any:
    """Ranks that experts are spread over; one kernel holds them all, whatever its caller asks for."""
    return np.where(says(rows, "vllm_mxfp4_moe"), 1.0, column(rows, "moe_ep", 1.0))
