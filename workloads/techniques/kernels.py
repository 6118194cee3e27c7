"""Kernels, and how they are launched."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import on
from workloads.techniques.conditions import attends, decodes


@dataclass(frozen=True)
class FlashAttention(Technique):
    """Attention as one kernel over tiles: no score is written to memory."""

    name = "flash-attention"
    aliases = ("fused-attention", "sdpa")
    category = "graph and operator"
    paper = "FlashAttention arXiv:2205.14135"
    removes = "writes and reads of scores and probabilities; tiles in which everything is masked"
    adds = "nothing in inference"
    needs = "a kernel for the head size and the mask"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "the attention kernel"
    without = {"scores_on_chip": False, "causal_exact": False}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        if not attends(schedule):
            return "the model has no attention"
        return self.already(schedule.convention) if schedule.convention.scores_on_chip else None

    def apply(self, schedule: Schedule) -> Schedule:
        """The same products without the traffic of scores, and without the pairs above the diagonal."""
        return schedule.with_change(on(Attention, lambda core: replace(core, fused=True, causal_exact=True)))


@dataclass(frozen=True)
class FlashDecoding(Technique):
    """The cache of a sequence is split over processors, whose partial results are combined."""

    name = "flash-decoding"
    aliases = ("split-kv", "split-k-attention")
    category = "graph and operator"
    paper = "Flash-Decoding, PyTorch blog 2023; FlashDecoding++ arXiv:2311.01282"
    removes = "idle processors where sequences and KV heads are fewer than processors"
    adds = "a partial result per split, and a small kernel that combines them"
    needs = "an attention kernel with splits"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how attention is spread over processors"
    without = {"splits_keys": False}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        if not (attends(schedule) and decodes(schedule)):
            return "no position attends to a cache step by step"
        return self.already(schedule.convention) if schedule.convention.splits_keys else None

    def apply(self, schedule: Schedule) -> Schedule:
        """Every processor takes its share of the keys; partial results are too small to count."""
        return schedule.with_convention(splits_keys=True)


TILE = 64  # rows that cuBLAS and CUTLASS pad to (arXiv:2311.01282, section 4)


@dataclass(frozen=True)
class FlatGemm(Technique):
    """Products with few rows are padded to eight rows instead of sixty-four.

    This matters where padded rows would take longer than reading the weights: with narrow formats, or on
    devices of few FLOP per byte. All predictions assume double buffering.
    """

    name = "flat-gemm"
    aliases = ("flashdecoding++", "flat-matmul")
    category = "graph and operator"
    paper = "FlashDecoding++ arXiv:2311.01282"
    removes = "multiplications with padded rows of small batches"
    needs = "kernels for few rows"
    quality = "exact"
    slot = "how flat products are tiled"
    example = "Llama-3.1-8B --hw h20 --batch 4"
    without = {"padded_rows": TILE}

    rows: int = parameter(8, "rows of the smallest tile (the paper: 8)", low=1, high=TILE)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        return self.already(schedule.convention) if schedule.convention.padded_rows <= self.rows else None

    def apply(self, schedule: Schedule) -> Schedule:
        """Rows are padded to a smaller tile; the product's traffic is unchanged."""
        return schedule.with_convention(padded_rows=self.rows)


@dataclass(frozen=True)
class FusedElementwise(Technique):
    """Norms, rotations, activations, residuals and the cache append run inside their neighbours' kernels."""

    name = "fused-elementwise"
    aliases = (
        "fusion",
        "operator-fusion",
        "kernel-fusion",
        "epilogue-fusion",
        "torch-compile",
        "residual-norm-fusion",
    )
    category = "graph and operator"
    paper = "ByteTransformer arXiv:2210.03052; torch.compile: doi:10.1145/3620665.3640366"
    removes = "writes and reads of activations between kernels, and launches"
    needs = "fused kernels or a compiler that makes them"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how elementwise operators are launched"
    without = {"elementwise_fused": False}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        return self.already(schedule.convention) if schedule.convention.elementwise_fused else None

    def apply(self, schedule: Schedule) -> Schedule:
        """The convention of everything else stays."""
        return schedule.with_convention(elementwise_fused=True)


@dataclass(frozen=True)
class CudaGraphs(Technique):
    """A step's kernels are captured once as a graph and launched by one call."""

    name = "cuda-graphs"
    aliases = ("hip-graphs",)
    category = "graph and operator"
    paper = "NVIDIA CUDA C++ Programming Guide, CUDA graphs"
    removes = "launch latency between kernels"
    adds = "memory for a graph per batch size"
    needs = "shapes that repeat from step to step"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how kernels are launched"
    without = {"launches": True}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Launches must be counted, by measured or assumed latencies."""
        measured = target.launch_s is not None and target.graph_launch_s is not None
        return None if measured or schedule.convention.launches else self.already(schedule.convention)

    def apply(self, schedule: Schedule) -> Schedule:
        """Every launch takes the time of a replayed graph's node, or none where not measured."""
        return schedule.each(None, lambda p: replace(p, launch="graph"))


@dataclass(frozen=True)
class PersistentKernel(Technique):
    """One kernel stays on the device for the whole step and runs operator after operator."""

    name = "persistent-kernel"
    aliases = ("megakernel",)
    category = "graph and operator"
    paper = "Look Ma, No Bubbles! (Hazy Research 2025); Mirage arXiv:2405.05751"
    removes = "launch latency between operators"
    adds = "synchronisation inside the kernel"
    needs = "a kernel generated for the model and the device"
    quality = "exact"
    slot = "how kernels are launched"
    example = "Llama-3.1-8B --hw h100 --without cuda-graphs"

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Launches must be counted: by a measured latency, or by what is assumed of a host."""
        if target.launch_s is not None or schedule.convention.launches:
            return None
        return (
            f"the convention {schedule.convention.name} counts no launches; --without cuda-graphs counts them"
        )

    def apply(self, schedule: Schedule) -> Schedule:
        """A step is one launch, too short to count beside it."""
        return schedule.each(None, lambda p: replace(p, launch="none"))
