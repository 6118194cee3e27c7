"""Fusion of elementwise operators."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique


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
    adds = "nothing"
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
