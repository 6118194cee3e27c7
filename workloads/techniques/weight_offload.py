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
    aliases = ("offloading", "weight-offload", "flexgen", "zero-inference", "layer-streaming")
    level = "system"
    category = "offloading"
    paper = "FlexGen arXiv:2303.06865; ZeRO-Inference arXiv:2207.00032"
    removes = "weights from device memory"
    adds = "their transfer over the host link or from disks in every pass, beside the computation"
    needs = "host memory; pinned buffers and prefetch"
    quality = "exact"
    slot = "where weights are kept"
    order = MEMORY

    share: float = parameter(1.0, "share of the layers' weights outside device memory", low=0, high=1)
    disk: float = parameter(0.0, "share of those that lie on the host's disks", low=0, high=1)
    devices: int = parameter(
        1,
        "devices that fetch a part each and gather the rest from the others (ZeRO-Inference)",
        low=1,
        high=1024,
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a link to the host, and disks where they are asked for."""
        if self.disk and not target.disk:
            return f"{target.name} has no disk in its file; add `links.disk`"
        return None if target.host_byte_per_s else f"{target.name} has no link to a host in its file"

    def apply(self, schedule: Schedule) -> Schedule:
        """A weight is read from device memory after it came; both at once bound the operator."""
        return schedule.with_change(on((Gemm, GroupedGemm, Changed), self._streamed, IN_LAYERS))

    def _streamed(self, product: Any) -> Operator:
        """Prefetched: transfers and computation of an operator overlap; disks serve all devices together."""

        def edit(work: Work) -> Work:
            moved = work.weight_bytes * self.share
            fetched = {
                Role.HOST: moved / self.devices,
                Role.DISK: moved * self.disk,
                Role.WIRE: moved * (1 - 1 / self.devices),
            }
            more = (Traffic("offloaded weights", role, size) for role, size in fetched.items() if size)
            return replace(work, traffic=(*work.traffic, *more))

        return Changed(product, edit, stored=1 - self.share)
