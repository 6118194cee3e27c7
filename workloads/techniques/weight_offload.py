"""Weight offloading: FlexGen, ZeRO-Inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.operators import Gemm, GroupedGemm, Operator
from workloads.schedule import Schedule
from workloads.techniques.base import MEMORY, Target, Technique, parameter
from workloads.techniques.changes import IN_LAYERS, Changed, on
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class WeightOffload(Technique):
    """Weights that do not fit stay in the host's memory and are streamed in for every pass."""

    name = "weight-offloading"
    aliases = ("offloading", "weight-offload", "flexgen", "layer-streaming")
    level = "system"
    category = "offloading"
    paper = "FlexGen arXiv:2303.06865; ZeRO-Inference arXiv:2207.00032"
    removes = "weights from device memory"
    adds = "their transfer over the host link in every pass, hidden behind computation where it is shorter"
    needs = "host memory; pinned buffers and prefetch"
    quality = "exact"
    slot = "where weights are kept"
    order = MEMORY

    share: float = parameter(1.0, "share of the layers' weights in host memory", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a link to the host."""
        return None if target.host_byte_per_s else f"{target.name} has no link to a host in its file"

    def apply(self, schedule: Schedule) -> Schedule:
        """A weight is read from device memory after it came; both at once bound the operator."""
        return schedule.with_change(on((Gemm, GroupedGemm, Changed), self._streamed, IN_LAYERS))

    def _streamed(self, product: Any) -> Operator:
        """Prefetched: transfer and computation of an operator overlap."""

        def edit(work: Work) -> Work:
            moved = Traffic("offloaded weights", Role.HOST, work.weight_bytes * self.share)
            return replace(work, traffic=(*work.traffic, moved))

        return Changed(product, edit, stored=1 - self.share)
