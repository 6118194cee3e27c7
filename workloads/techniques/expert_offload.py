"""Expert offloading."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Changed, GroupedGemm
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import on
from workloads.techniques.conditions import no_experts
from workloads.techniques.offloading import Streamed
from workloads.work import Role, Traffic, Work

EXPERTS = ".moe.experts_"  # in the names of their products


@dataclass(frozen=True)
class ExpertOffload(Technique):
    """Experts stay in the host's memory; those that a step chose are streamed in, or computed there."""

    name = "expert-offloading"
    aliases = ("mixtral-offloading", "expert-offload")
    variants = {"cpu-experts": {"compute": "host"}, "ktransformers": {"compute": "host"}}
    category = "offloading"
    paper = "Eliseev and Mazur arXiv:2312.17238; KTransformers doi:10.1145/3731569.3764843"
    removes = "experts from device memory"
    adds = "the chosen experts over the host link in every pass, or tokens there and back and the host's work"
    needs = "host memory; a cache of experts helps"
    quality = "exact"
    slot = "where weights are kept"
    example = "Mixtral-8x7B --hw h100"
    assumed = ("cached",)

    share: float = parameter(1.0, "share of the experts in host memory", low=0, high=1)
    cached: float = parameter(0.0, "share of chosen experts found in a cache on the device", low=0, high=1)
    compute: str = parameter(
        "device", "where they are computed; the host needs no transfer of them", among=("device", "host")
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be experts, and a link to the host."""
        if (reason := no_experts(schedule)) is not None:
            return reason
        if self.compute == "host" and not target.host_memory:
            return f"{target.name} has no host memory in its file; add `links.host_memory`"
        return target.no_host()

    def apply(self, schedule: Schedule) -> Schedule:
        """Selected offloaded experts that are not cached cross the link.

        If the host computes, it reads them from its memory, and tokens and results cross the link.
        """
        away = self.share * (1 - self.cached)
        if self.compute == "host":
            edit: Streamed | _OnHost = _OnHost(away)
        else:
            edit = Streamed("offloaded experts", (Role.WEIGHT,), host=away)
        return schedule.with_change(
            on((GroupedGemm, Changed), lambda product: Changed(product, edit, stored=1 - self.share), EXPERTS)
        )


@dataclass(frozen=True)
class _OnHost:
    """The edit of experts with a share computed by the host, assumed limited by host memory bandwidth."""

    share: float

    def __call__(self, work: Work) -> Work:
        """The remaining work of the device, and the concurrent work of host and link."""
        kept = 1 - self.share
        moved, read = work.activation_bytes * self.share, work.weight_bytes * self.share
        return replace(
            work,
            traffic=(
                *(replace(t, bytes=t.bytes * kept) for t in work.traffic),
                Traffic("tokens and results", Role.HOST, moved),
                Traffic("experts of the host", Role.HOST_MEMORY, read),
            ),
            matrix_flops=work.matrix_flops * kept,
            vector_flops=work.vector_flops * kept,
        )
