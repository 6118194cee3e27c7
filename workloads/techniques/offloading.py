"""Weights or the cache in the host's memory or on its disks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Changed
from workloads.schedule import Change, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import IN_LAYERS, PRODUCTS, on, on_rows
from workloads.techniques.conditions import no_cache
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
