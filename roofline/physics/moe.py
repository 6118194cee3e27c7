"""The routed-experts layer of one rank: routing, permutation, two grouped products, activation, combination.

Each expert's tokens are padded to whole tiles; tiles are served in waves by the processors; a tile is fed
from the L2 and the weights of touched experts come from memory, again for each row of tiles where one
expert's matrix does not fit into the L2. The tile's rows are those that the model itself finds fastest,
except where the library's own rule is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics import cutlass_tiles, triton_tiles
from roofline.physics.base import L2_BYTES_PER_CLOCK, Constant, ceil_div, column
from roofline.physics.expert_load import GROUPED, GROUPS, TILES, Load, expert_load, exponents, unpacked
from roofline.physics.generated_tiles import COLUMNS, launched, padded
from roofline.physics.libraries import (
    OF_EXPERTS,
    TORCH_FLOW,
    UNPACKED,
    WIDENED,
    chosen_by_tensorrt_llm,
    library,
    of_engine,
    says,
    since,
)
from roofline.physics.model import KernelModel
from roofline.physics.tile_search import TCGEN05, WGMMA
from workloads.dtypes import bytes_per_element, compute_dtype

if TYPE_CHECKING:
    from roofline.physics.base import Bound, Columns, Dtypes, Floats, Gpu
    from roofline.physics.fit import Cell

WIDTHS = (64.0, 128.0, 256.0)  # columns of a tile
L2_SHARE = 0.5  # of the L2 that one matrix can keep beside activations and results
LEAST_STREAM = 0.5  # of the memory bandwidth, that any kernel which was tuned reaches
# Dense 16-bit FLOP per clock and processor of products by single warps (mma.sync), as Marlin multiplies on
# all generations: more than Ampere's peak, and 63 % of Hopper's (Luo et al., 2024, arXiv:2402.13499).
WARP_FLOP_PER_CLOCK = 2580.0
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
WIDENING = 10.0
# Beside activations of 16 bits generated kernels have warps that only widen mxfp4, for each tile again: to
# fp16 in pairs (all that e2m1x2 converts to, PTX ISA), to fp32, to bf16 in pairs, times a scale in pairs, and
# an eighth of a load and of a store.
CASTING = 2.75
CONSTANTS = (
    Constant("launch_s", "s", 3e-6, 2e-4, 2e-5, "launches of the layer's small kernels"),
    Constant("memory_share", "", 0.1, 1.0, 0.87, "share of the memory bandwidth for streamed weights"),
    Constant("kept", "", 0.01, 1.0, 0.4, "share of the L2 that keeps weights between replays", "whole"),
    Constant("compute_share", "", 0.02, 1.0, 0.6, "share of the tensor peak inside a tile"),
    Constant("l2_share", "", 0.03, 2.5, 0.7, "share of the L2 port that feeds a tile", "clusters"),
    Constant("tile_s", "s", 1e-7, 3e-5, 5e-7, "first loads and last stores of a tile", "1/clock"),
    Constant("least_rows", "", 8.0, 200.0, 16.0, "rows computed by the smallest tile, used or not"),
    Constant("whole_waves", "", 0.0, 1.0, 0.3, "lost share of a last wave that is not full"),
    Constant("reread", "", 0.03, 1.2, 0.3, "share of row tiles that reread a large matrix from memory"),
    Constant("passes", "", 0.2, 10.0, 1.0, "passes over routed rows by sorting and activation"),
    Constant("row_s", "s", 1e-11, 2e-8, 1e-9, "a thread block per routed row, however short", "1/clock"),
    Constant("token_passes", "", 0.1, 20.0, 1.0, "passes over all tokens by quantising, copying, summing"),
    Constant("expert_s", "s", 1e-9, 1e-6, 3e-8, "offsets and descriptors per local expert", "1/clock"),
    Constant("choice_s", "s", 1e-11, 2e-8, 5e-10, "sorting one routed choice", "1/clock"),
    Constant("sort_s", "s", 1e-7, 2e-5, 5e-6, "further kernels that sort more choices than fit one block"),
    Constant("elsewhere", "", 1e-3, 1.3, 0.03, "relative cost of a choice served by another rank"),
    Constant("mapped_s", "s", 1e-7, 5e-5, 5e-6, "further kernels that remap expert ids to a rank's own"),
)
# What a library's own design sets and another library's kernels do not tell: its smallest tile, whether each
# expert has descriptors (grouped products of CUTLASS and DeepGEMM do), which rows of other ranks it skips.
DESIGNED = ("least_rows", "expert_s", "elsewhere")
# Kernels that a library launches for few tokens. FlashInfer's and TensorRT-LLM's generated ones: routing, two
# products, finalising (trtllm_fused_moe_runner.cu). Their CUTLASS: routing, sorting, expanding, strides, a
# product, activation, a product, finalising (`runMoe` in moe_kernels.cu). Fused Triton, and Marlin: routing,
# two of aligning, a product, activation, a product, the sum (fused_moe.py, fused_marlin_moe.py). DeepGEMM in
# TensorRT-LLM copies and quantises apart (fused_moe_deepgemm.py).
# Quantising is counted in `launches`.
LAUNCHED = {"trtllm-gen": 4, "CUTLASS": 8, "Triton": 7, "Marlin": 7, "DeepGEMM": 10}
# And what runs with these, or does not: vLLM 0.19's rows of trtllm-gen copy a scale and pack choices by five
# kernels of plain torch (aiconfigurator's collector); vLLM's modular ones choose and pack by a kernel each;
# TensorRT-LLM's rows of few tokens are not finalised (`do_finalize=False`).
LAUNCHED_BESIDE = (("flashinfer_trtllm_moe_fp4", 5), ("modular", 2), ("min_latency", -1))
# Blocks of Triton's kernels load all of their operands themselves: none is shared in a cluster. The engines'
# own kernels activate and sum around these and Marlin's, an element a thread and turn: threads set the rate.
BY_THREADS = tuple(replace(c, scales_with="issue") if c.name == "passes" else c for c in CONSTANTS)
ALONE = tuple(replace(c, scales_with="") if c.scales_with == "clusters" else c for c in BY_THREADS)
# Tiles of those that load by bulk copies are fed by ports where the L2 is that of two dies.
RULES = {"l2_share": "clusters dies", "token_passes": "issue"}
FED = tuple(replace(c, scales_with=RULES.get(c.name, c.scales_with)) for c in CONSTANTS)
CARRIED = {"Triton": ALONE, "Marlin": BY_THREADS, "CUTLASS": FED, "trtllm-gen": FED}


class MoeModel(KernelModel):
    """See the module; the constants say what each term is."""

    kinds: ClassVar[tuple[str, ...]] = ("moe",)
    family: ClassVar[tuple[str, ...]] = ("hidden", "inter", "topk", "num_experts")
    rows_of_family: ClassVar[float] = 4.0  # layers of one model leave most constants open
    loose: ClassVar[bool] = True  # small kernels around the products trade places
    odd_error: ClassVar[float] = 1.0  # autotuners of two builds took 4 times as long as each other
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "the roofline: the experts' products and weights at the data sheet's peaks",
        "reached": "shares of the peaks attained by the grouped products",
        "tiles": "tokens per expert padded to tiles, partial waves, matrices read again",
        "around": "rows moved by the permute, quantise, activation and combine kernels",
        "routing": "sorting the router's choices by expert",
        "launch": "launches of the layer's kernels",
    }

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all formats."""
        return CONSTANTS

    def carried_constants(self, kernel: str, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """As they are, but for what Triton's blocks share and who moves rows between products."""
        return CARRIED.get(self.library(self.alias(kernel, gpu, dtype.name)), CONSTANTS)

    def alike(self, kernel: str, gpu: Gpu, dtype: str) -> tuple[str, ...]:
        """A kernel that widens weights in mxfp4 multiplies 16 bits; Marlin's has the loop of other 4 bits."""
        return ("bfloat16",) if dtype == "w4a16_mxfp4" and "marlin" not in kernel else ()

    def multiplied(self, kernel: str, dtype: str) -> str:
        """SGLang's Triton kernel widens mxfp4 before its products."""
        return "bfloat16" if dtype == "w4a16_mxfp4" and WIDENED in kernel else dtype

    def alias(self, kernel: str, gpu: Gpu, dtype: str) -> str:
        """What TensorRT-LLM's default stands for."""
        return chosen_by_tensorrt_llm(kernel, gpu.generation, dtype)

    def renamed(self, kernel: str, one: Gpu, other: Gpu) -> bool:
        """That default, which was measured in mxfp4 on Hopper and Blackwell alone."""
        return kernel == TORCH_FLOW and one.generation != other.generation

    def library(self, kernel: str) -> str:
        """The library of a kernel: what its constants have in common with those of others."""
        return library(kernel, OF_EXPERTS)

    def borrowed(
        self, values: Mapping[str, float], lender: tuple[str, Dtypes], borrower: tuple[str, Dtypes]
    ) -> Mapping[str, float]:
        """Without what the lender's library designed, and with a start for each kernel of the borrower's."""
        (one, narrow), (other, narrower) = lender, borrower
        if widens(one) and "mxfp4" in narrow.weights and not widens(other):
            return {}
        if unpacks(one) and not unpacks(other):  # two kernels in turn, which one set of constants blurs
            return {}
        if not other or self.library(one) == self.library(other):
            return values
        known = {name: value for name, value in values.items() if name not in DESIGNED}
        theirs, own = launches(one, self.library(one), narrow), launches(other, self.library(other), narrower)
        if "launch_s" in known and theirs and own:
            known["launch_s"] *= own / theirs
        return known

    def sound(self, values: Mapping[str, float], gpu: Gpu, dtype: Dtypes) -> bool:
        """Whether a kernel's constants speak for others: it streams large matrices at half of the peak.

        What does not ran without tuning, or unpacks weights slowly.
        """
        sizes = {"num_tokens": 1.0, "topk": 8.0, "num_experts": 8.0, "hidden": 8192.0, "inter": 8192.0}
        starts = {c.name: c.start for c in CONSTANTS}
        rows = {name: np.array([size]) for name, size in sizes.items()}
        parts = self.parts(rows, gpu, dtype, {**starts, **values})
        products = parts["ideal"] + parts["reached"] + parts["tiles"]
        return bool((parts["ideal"] >= LEAST_STREAM * products).all())

    def tuned(self, cell: Cell) -> bool:
        """The same of measured rows: whether any of them streams its weights at half of the peak."""
        streamed = _Layer(cell.rows, cell.gpu, cell.dtype).weight_bytes / cell.gpu.dram_byte_per_s
        possible = cell.time_s >= (0.0 if cell.floor_s is None else cell.floor_s)
        return bool((streamed >= LEAST_STREAM * cell.time_s)[possible].any())

    def prepared(self, rows: Columns) -> Columns:
        """The rows with their loads, which are counted once for all rows that differ."""
        load = rank_load(rows)
        return {**rows, "load": np.vstack([load.chosen, load.touched, load.tokens, load.tiles])}

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Ideal roofline, what shares of the peaks cost, tiles and waves, then the kernels around them.

        A row with a `share` is that part of a layer: one of its two products, where they are listed apart.
        """
        return self.bound(rows, gpu, dtype)(c)

    def bound(self, rows: Columns, gpu: Gpu, dtype: Dtypes) -> Bound:
        """The same for many sets of constants: sizes and loads are counted once."""
        return _Layer(rows, gpu, dtype).parts


def widens(kernel: str) -> bool:
    """Whether a kernel's engine widens mxfp4 weights when it loads them (`upcast_from_mxfp` in SGLang)."""
    return WIDENED in kernel


def unpacks(kernel: str) -> bool:
    """Whether a kernel is vLLM's of 4 bits, which the tables call Marlin (`fused_experts`, int4_w4a16)."""
    return UNPACKED in kernel


def launches(kernel: str, library: str, dtype: Dtypes) -> int | None:
    """Kernels that a library launches for a layer; None where that is not known.

    Activations of 8 bits and fewer are quantised by a kernel before the experts, by Triton before either
    product; generated kernels need another for activating 8 bits in blocks (`useDeepSeekFp8`).
    """
    count = LAUNCHED.get(library)
    if count is None:
        return count
    count += next((more for word, more in LAUNCHED_BESIDE if word in kernel), 0)
    if bytes_per_element(dtype.inputs) > 1:
        return count
    return count + (
        2 if library == "Triton" or (library == "trtllm-gen" and dtype.name == "fp8_block") else 1
    )


class _Layer:
    """The sizes of the rows' layers on this rank, and what they cost by given constants."""

    def __init__(self, rows: Columns, gpu: Gpu, dtype: Dtypes) -> None:
        self.gpu, self.dtype = gpu, dtype
        self.tokens, self.top_k = column(rows, "num_tokens"), column(rows, "topk")
        self.experts, ranks = column(rows, "num_experts"), _ranks(rows)
        self.hidden, self.share = column(rows, "hidden"), column(rows, "share", 1.0)
        self.replayed = column(rows, "replayed", 1.0)
        self.width = column(rows, "inter") / column(rows, "moe_tp", 1.0)
        self.load = unpacked(rows["load"]) if "load" in rows else rank_load(rows)
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
        # SGLang serves the choices of other ranks as those of one more expert of its own: up to
        # 0.5.10 it multiplied them, since then it only reads weights for them.
        sglang = of_engine(rows, "sglang") & says(rows, "fused_moe")
        strangers = sglang & (ranks > 1)
        self.touched = self.load.touched + strangers
        # Kernels around them took 10 us more up to then (medians of pairs of rows), and still do on a share.
        self.mapped = np.asarray(strangers | (sglang & ~since(rows, 0, 5, 11)), dtype=np.float64)
        far = np.maximum(self.load.tokens * self.top_k - self.load.chosen, 0.0)
        self.marlin = says(rows, "marlin") & ~self.unpacks
        skipped = strangers | (of_engine(rows, "vllm") & self.marlin)
        self.strange = np.where(skipped, 0.0, far)  # rows of other ranks' experts that may not be skipped
        self.served = np.where(strangers & ~since(rows, 0, 5, 11), far, 0.0)  # and those that never are
        self.weight = np.where(self.widened, 2.0, bytes_per_element(dtype.weights))
        needed = (self.ups + 1) * self.width * self.hidden
        self.flops = 2 * self.load.chosen * needed
        self.needed_bytes = self.touched * needed * self.weight
        self.hidden, self.width = padded(self.hidden, self.width, self.by_launcher, rows, dtype)
        self.matrix = np.stack([self.ups * self.width * self.hidden, self.hidden * self.width])
        self.scaled = self._scalings(rows)
        self.rows, self.columns = self._tiles()
        self.tensor = self._peak(rows)
        # One instruction of a vector unit is two FLOP, and stands for 2 x 128 of the tensor cores.
        self.peak = 1 / (1 / self.tensor + self.scaled / (SCALED_K * gpu.vector_flop_per_s))
        self.weight_bytes = self.touched * self.matrix.sum(axis=0) * self.weight

    def parts(self, c: Mapping[str, float]) -> dict[str, Floats]:
        """Named seconds, as `MoeModel.parts`."""
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
        in the first product, but in the format of 8 bits in blocks.
        """
        rows = np.where(self.fused, self.tokens * self.top_k, self._rows(c))
        activated = np.where(self.activates, 0.0, (self.ups + 1) * self.width)
        between = rows * (np.where(self.fused | self.by_launcher, 1, 2) * self.hidden + activated)
        moved = c["token_passes"] * self.tokens * self.hidden + c["passes"] * between
        return 2 * moved / self.gpu.dram_byte_per_s + c["row_s"] * rows

    def _rows(self, c: Mapping[str, float]) -> Any:
        """Rows of this rank's experts, and of others' what the kernel does not skip."""
        return self.load.chosen + self.served + c["elsewhere"] * self.strange

    def routing_s(self, c: Mapping[str, float]) -> Any:
        """Sorting the choices: further kernels beyond what one block sorts, a part per choice and expert."""
        choices = self.tokens * self.top_k
        sorting = c["sort_s"] * choices / (choices + BLOCK_CHOICES) + c["choice_s"] * choices
        return sorting + c["expert_s"] * self.rank_experts

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
        lanes = c["compute_share"] * gpu.vector_flop_per_s / 2 / gpu.processors
        by_vectors = self.unpacks * WIDENING + self.scaled * rows / SCALED_K
        multiplied = 2 * self._multiplied(size, rows) * width / peak + by_vectors * width / lanes
        multiplied = np.maximum(multiplied, self.casts * CASTING * width / lanes)
        return np.maximum(multiplied, (rows * element + width * self.weight) / port)


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
    limited = says(rows, "min_latency") & (names != "") & ((alpha == 0) | (experts == GROUPS))
    alpha = np.where(limited, GROUPED, alpha)
    return expert_load(tokens, experts, top_k, ranks, alpha)


def _ranks(rows: Columns) -> Any:
    """Ranks that experts are spread over; one kernel holds them all, whatever its caller asks for."""
    return np.where(says(rows, "vllm_mxfp4_moe"), 1.0, column(rows, "moe_ep", 1.0))
