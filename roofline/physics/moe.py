"""Routed experts on one rank: what their constants are, and which kernel's stand in for another's.

The layer is routing, permutation, two grouped products, activation and combination (`expert_layer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from roofline.physics.base import Constant
from roofline.physics.expert_layer import TURN, Layer, quantises_by_turns, rank_load
from roofline.physics.libraries import (
    EXPERTS_BY_DEFAULT,
    OF_EXPERTS,
    TORCH_FLOW,
    UNPACKED,
    WIDENED,
    chosen_by_tensorrt_llm,
    library,
)
from roofline.physics.model import KernelModel
from workloads.dtypes import bytes_per_element

if TYPE_CHECKING:
    from roofline.physics.base import Bound, Columns, Dtypes, Floats, Gpu
    from roofline.physics.fit import Cell

LEAST_STREAM = 0.5  # of the memory bandwidth, that any kernel which was tuned reaches
CONSTANTS = (
    Constant("launch_s", "s", 3e-6, 2e-4, 2e-5, "launches of the layer's small kernels", "launches 1/clock"),
    Constant("memory_share", "", 0.1, 1.0, 0.87, "share of the memory bandwidth for weights", "loads"),
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
    Constant("sort_s", "s", 1e-7, 2e-5, 5e-6, "kernels that sort more choices than fit one block", "1/clock"),
    Constant("elsewhere", "", 1e-3, 1.3, 0.03, "relative cost of a choice served by another rank"),
    Constant("mapped_s", "s", 1e-7, 5e-5, 5e-6, "kernels that remap expert ids to a rank's own", "1/clock"),
)
# What a library's own design sets and another library's kernels do not tell: its smallest tile, whether each
# expert has descriptors (grouped products of CUTLASS and DeepGEMM do), which rows of other ranks it skips.
DESIGNED = ("least_rows", "expert_s", "elsewhere")
# DeepGEMM's blocks have none: each walks through the experts for the tile that is its next, one count after
# the other (`get_next_block`). So do TensorRT-LLM's blocks of 8 bits, which contain DeepGEMM's scheduler
# (deep_gemm/scheduler.cuh, fp8_blockscale_gemm).
WALKED = "expert_s"
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
        """The same for all formats, but for what quantises 8 bits in blocks."""
        return (*CONSTANTS, TURN) if quantises_by_turns(gpu, dtype) else CONSTANTS

    def carried_constants(self, kernel: str, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """As they are, but for what Triton's blocks share and who moves rows between products."""
        found = CARRIED.get(self.library(self.alias(kernel, gpu, dtype.name)), CONSTANTS)
        return (*found, TURN) if quantises_by_turns(gpu, dtype) else found

    def alike(self, kernel: str, dtype: str) -> tuple[str, ...]:
        """A kernel that widens weights in mxfp4 multiplies 16 bits; Marlin's has the loop of other 4 bits."""
        return ("bfloat16",) if dtype == "w4a16_mxfp4" and "marlin" not in kernel else ()

    def multiplied(self, kernel: str, dtype: str) -> str:
        """SGLang's Triton kernel widens mxfp4 before its products."""
        return "bfloat16" if dtype == "w4a16_mxfp4" and widens(kernel) else dtype

    def alias(self, kernel: str, gpu: Gpu, dtype: str) -> str:
        """What TensorRT-LLM's default stands for."""
        return chosen_by_tensorrt_llm(kernel, gpu, dtype)

    def by_default(self, engine: str) -> str:
        """TensorRT-LLM's CUTLASS, beside which its generated kernels were measured."""
        return EXPERTS_BY_DEFAULT.get(engine, "")

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
        if not other:
            return values
        mine, another = self.library(other), self.library(one)
        walked = walks(mine, narrower) and walks(another, narrow)
        known = {
            name: v
            for name, v in values.items()
            if mine == another or name not in DESIGNED or (walked and name == WALKED)
        }
        own, theirs = launches(other, mine, narrower), launches(one, another, narrow)
        if "launch_s" in known and own:
            if theirs:
                known["launch_s"] *= own / theirs
            else:
                del known["launch_s"]
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
        streamed = Layer(cell.rows, cell.gpu, cell.dtype).weight_bytes / cell.gpu.dram_byte_per_s
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
        return Layer(rows, gpu, dtype).parts


def widens(kernel: str) -> bool:
    """Whether a kernel's engine widens mxfp4 weights when it loads them (`upcast_from_mxfp` in SGLang)."""
    return WIDENED in kernel


def unpacks(kernel: str) -> bool:
    """Whether a kernel is vLLM's of 4 bits, which the tables call Marlin (`fused_experts`, int4_w4a16)."""
    return UNPACKED in kernel


def walks(library: str, dtype: Dtypes) -> bool:
    """Whether a library's blocks walk through the experts as DeepGEMM's do."""
    return library == "DeepGEMM" or (library == "CUTLASS" and dtype.name == "fp8_block")


def launches(kernel: str, library: str, dtype: Dtypes) -> int | None:
    """Kernels that a library launches for a layer; None where that is not known.

    Activations of 8 bits and fewer are quantised by a kernel before the experts, by Triton before either
    product. In blocks of 8 bits generated kernels activate by one of their own (`useDeepSeekFp8`), for which
    vLLM and SGLang transpose the scales by another (`prepare_deepseek_fp8_x_sf`, flashinfer_trtllm.py).
    """
    count = LAUNCHED.get(library)
    if count is None:
        return None
    count += next((more for word, more in LAUNCHED_BESIDE if word in kernel), 0)
    if bytes_per_element(dtype.inputs) > 1:
        return count
    if library == "trtllm-gen" and dtype.name == "fp8_block":
        return count + (3 if "flashinfer" in kernel else 2)
    return count + (2 if library == "Triton" else 1)
