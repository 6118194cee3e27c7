"""CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique


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
