"""KV offloading."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Change, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_cache
from workloads.techniques.streaming import Streamed, streamed_cache
from workloads.work import KV, Role


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
