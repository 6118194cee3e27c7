"""CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Schedule
from workloads.techniques.base import KERNELS, Target, Technique


@dataclass(frozen=True)
class CudaGraphs(Technique):
    """A step's kernels are recorded once and launched together."""

    name = "cuda-graphs"
    aliases = ("hip-graphs",)
    level = "system"
    category = "graph and operator"
    paper = "NVIDIA CUDA C++ Programming Guide, CUDA graphs"
    removes = "launch latency between kernels"
    adds = "memory for a graph per batch size"
    needs = "shapes that repeat from step to step"
    quality = "exact"
    slot = "how kernels are launched"
    order = KERNELS

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Both latencies must have been measured; the data sheet knows none."""
        if target.launch_s is None or target.graph_launch_s is None:
            return f"launch latency with and without graphs was not measured on {target.name}"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Every launch takes what a node of a replayed graph takes."""
        return schedule.each(None, lambda p: replace(p, launch="graph"))
