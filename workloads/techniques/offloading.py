"""Weights, experts or the cache in the host's memory or on its disks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Changed, GroupedGemm
from workloads.schedule import Change, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import IN_LAYERS, PRODUCTS, on, on_rows
from workloads.techniques.conditions import no_cache, no_experts
from workloads.work import KV, Role, Traffic, Work


@dataclass(frozen=True)
class Streamed:
    """The edit of an operator of whose tensors shares pass links too, while it computes."""

    tensor: str  # what the bytes are called
    roles: tuple[Role, ...]  # of the tensors that are streamed
    host: float = 0.0  # shares of their bytes
    disk: float = 0.0
    wire: float = 0.0

    def __call__(self, work: Work) -> Work:
        """The work with the streamed bytes beside it."""
        size = work.bytes_as(*self.roles)
        shares = {Role.HOST: self.host, Role.DISK: self.disk, Role.WIRE: self.wire}
        more = [Traffic(self.tensor, role, size * share) for role, share in shares.items() if share]
        return replace(work, traffic=(*work.traffic, *more)) if size else work


def streamed_weights(edit: Streamed, here: float) -> Change:
    """A change that streams weights of the layers' products, of which a share stays on the device."""
    return on((*PRODUCTS, Changed), lambda product: Changed(product, edit, stored=here), IN_LAYERS)


def streamed_cache(edit: Streamed) -> Change:
    """A change that streams what operators of the layers read or write of the cache."""
    return on_rows(
        lambda row: IN_LAYERS in row.name and row.operator.work().kv_bytes,
        lambda operator: Changed(operator, edit),
    )


@dataclass(frozen=True)
class WeightOffload(Technique):
    """Weights that do not fit stay in the host's memory and are streamed in for every pass."""

    name = "weight-offloading"
    aliases = ("offloading", "weight-offload", "zero-inference", "layer-streaming")
    category = "offloading"
    paper = "ZeRO-Inference arXiv:2207.00032"
    removes = "weights from device memory"
    adds = "their transfer over the host link or from disks in every pass, beside the computation"
    needs = "host memory; pinned buffers and prefetch"
    quality = "exact"
    served = "vLLM, SGLang"
    slot = "where weights are kept"

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
        return (target.no_disk() if self.disk else None) or target.no_host()

    def apply(self, schedule: Schedule) -> Schedule:
        """Prefetched: transfers and computation of an operator overlap.

        A weight is read from device memory after it came.
        """
        edit = Streamed(
            "offloaded weights",
            (Role.WEIGHT,),
            host=self.share / self.devices,
            disk=self.share * self.disk,  # disks serve all devices together
            wire=self.share * (1 - 1 / self.devices),
        )
        return schedule.with_change(streamed_weights(edit, 1 - self.share))


@dataclass(frozen=True)
class KvOffload(Technique):
    """Keys and values stay in the host's memory and are streamed in for every step."""

    name = "kv-offloading"
    aliases = ("kv-offload", "kv-cache-offload")
    category = "offloading"
    paper = "FlexGen arXiv:2303.06865"
    removes = "the cache from device memory"
    adds = "its transfer over the host link in every decode step"
    needs = "host memory"
    quality = "exact"
    slot = "where the cache is kept"

    share: float = parameter(1.0, "share of the cache outside device memory", low=0, high=1)
    disk: float = parameter(0.0, "share of that which lies on the host's disks", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a cache, and a link to the host."""
        return no_cache(schedule) or (target.no_disk() if self.disk else None) or target.no_host()

    def apply(self, schedule: Schedule) -> Schedule:
        """New keys and values go out after each pass; earlier ones come in for a decode step."""
        found = schedule.with_change(self._streamed(Role.KV_WRITE), "prefill")
        found = found.with_change(self._streamed(*KV), "decode")
        return found.with_main(cache_here=schedule.main.cache_here * (1 - self.share))

    def _streamed(self, *roles: Role) -> Change:
        return streamed_cache(Streamed("offloaded cache", roles, self.share, self.share * self.disk))


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
