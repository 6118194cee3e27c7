"""Expert offloading."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import MoeBlock
from workloads.operators import Changed, GroupedGemm
from workloads.schedule import Schedule
from workloads.techniques.base import MEMORY, Target, Technique, parameter
from workloads.techniques.changes import blocks, on
from workloads.techniques.streaming import Streamed
from workloads.work import Role

EXPERTS = ".moe.experts_"  # leads the names of their products


@dataclass(frozen=True)
class ExpertOffload(Technique):
    """Experts stay in the host's memory; those that a step chose are streamed in."""

    name = "expert-offloading"
    aliases = ("cpu-experts", "mixtral-offloading", "expert-offload")
    level = "system"
    category = "offloading"
    paper = "Eliseev and Mazur arXiv:2312.17238; KTransformers doi:10.1145/3731569.3764843"
    removes = "experts from device memory"
    adds = "the chosen experts over the host link in every pass"
    needs = "host memory; a cache of experts helps"
    quality = "exact"
    slot = "where weights are kept"
    order = MEMORY
    assumed = ("cached",)

    share: float = parameter(1.0, "share of the experts in host memory", low=0, high=1)
    cached: float = parameter(0.0, "share of chosen experts found in a cache on the device", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be experts, and a link to the host."""
        if not blocks(schedule, MoeBlock):
            return "the model has no experts"
        return None if target.host_byte_per_s else f"{target.name} has no link to a host in its file"

    def apply(self, schedule: Schedule) -> Schedule:
        """What a step touches of the offloaded experts passes the link, but for what is cached."""
        edit = Streamed("offloaded experts", (Role.WEIGHT,), host=self.share * (1 - self.cached))
        return schedule.with_change(
            on((GroupedGemm, Changed), lambda product: Changed(product, edit, stored=1 - self.share), EXPERTS)
        )
