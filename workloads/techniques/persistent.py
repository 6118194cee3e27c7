"""Persistent kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique


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
