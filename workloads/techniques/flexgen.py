"""FlexGen: weights, cache and activations over device, host and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workloads.dtypes import bytes_per_element
from workloads.operators import Attention, Changed, Copy
from workloads.phases import Named
from workloads.schedule import Change, Resident, Schedule
from workloads.step import Step
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import IN_LAYERS, PRODUCTS, on, with_weights
from workloads.techniques.conditions import no_cache
from workloads.techniques.offloading import Streamed, streamed_cache, streamed_weights
from workloads.work import KV, Role, Traffic, Work


@dataclass(frozen=True)
class FlexGen(Technique):
    """A policy says how much of weights, cache and activations lies on the device, the host and its disks.

    Several batches are computed in turn for each transfer of a layer's weights.
    """

    name = "flexgen"
    aliases = ("flexllmgen", "offloading-policy")
    category = "offloading"
    paper = "FlexGen arXiv:2303.06865"
    removes = "weights, cache and activations from device memory"
    adds = "transfers over the host link and from disks; a read of the weights for each batch of a block"
    needs = "host memory; pinned buffers and prefetch; a large batch, which shares each transfer"
    quality = "exact"
    slot = "where weights are kept"
    also_decides = ("where the cache is kept",)

    weights: float = parameter(0, "per cent of the weights on the device", low=0, high=100)
    weights_host: float = parameter(100, "per cent in the host's memory; the rest on disk", low=0, high=100)
    cache: float = parameter(0, "per cent of keys and values on the device", low=0, high=100)
    cache_host: float = parameter(100, "per cent in the host's memory; the rest on disk", low=0, high=100)
    activations: float = parameter(0, "per cent of activations on the device between layers", low=0, high=100)
    activations_host: float = parameter(
        100, "per cent in the host's memory; the rest on disk", low=0, high=100
    )
    batches: int = parameter(1, "batches of a block, which are computed in turn", low=1, high=1024)
    attention: str = parameter(
        "device", "where decode attends; the host needs no transfer of its cache", among=("device", "host")
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Shares must not exceed 100 per cent, shares on disk need a disk, and batches must divide evenly."""
        for what in ("weights", "cache", "activations"):
            away = self._away(what)
            if away[1] < 0:
                return f"{what} on the device and on the host are more than 100 per cent"
            if away[1] > 0 and (reason := target.no_disk()) is not None:
                return reason
        if schedule.batch % self.batches:
            return f"a batch of {schedule.batch} cannot be computed in {self.batches} equal parts"
        return no_cache(schedule) or target.no_host()

    def _away(self, what: str) -> tuple[float, float]:
        """Shares off the device, and on disk, both of the whole."""
        here, on_host = getattr(self, what) / 100, getattr(self, f"{what}_host") / 100
        return 1 - here, round(1 - here - on_host, 12)

    def apply(self, schedule: Schedule) -> Schedule:
        """Transfers of an operator overlap with its computation; data on disk also crosses the host link."""
        weights, cached, stored = self._away("weights"), self._away("cache"), self._away("activations")
        found = schedule
        if weights[0]:
            edit = _streamed("weights", weights, Role.WEIGHT)
            found = found.with_change(streamed_weights(edit, 1 - weights[0]))
        if self.batches > 1:
            found = found.with_change(on((*PRODUCTS, Changed), self._read_again, IN_LAYERS), held=False)
        if cached[0]:
            found = found.with_change(streamed_cache(_streamed("cache", cached, Role.KV_WRITE)), "prefill")
            found = found.with_change(self._attended(cached), "decode")
            found = found.with_main(cache_here=schedule.main.cache_here * (1 - cached[0]))
        if stored[0]:
            edit = _streamed("activations", stored, Role.INPUT)
            found = found.with_change(_between_layers(schedule.main, edit), held=False)
        here = (1 + (self.batches - 1) * (1 - stored[0])) / self.batches
        return replace(found, activations_here=schedule.activations_here * here)

    def _read_again(self, product: Any) -> Changed:
        """Every batch of the block reads the weights from device memory, after a single transfer."""
        return replace(with_weights(product, self.batches), stored=1.0)

    def _attended(self, away: tuple[float, float]) -> Change:
        """In decode the cache comes to the device, or queries go to the host."""
        if self.attention == "device":
            return streamed_cache(_streamed("cache", away, *KV))
        on_host, appended = _OnHost(*away), streamed_cache(_streamed("cache", away, Role.KV_WRITE))
        moved = on(Attention, lambda core: Changed(core, on_host), IN_LAYERS)
        return lambda rows, step: appended(moved(rows, step), step)


def _streamed(what: str, away: tuple[float, float], *roles: Role) -> Streamed:
    return Streamed(f"offloaded {what}", roles, *away)


@dataclass(frozen=True)
class _OnHost:
    """The edit of an attention with a share run on the host; the host's time is not part of the bound."""

    share: float
    disk: float

    def __call__(self, work: Work) -> Work:
        """The remaining work of the device, and the traffic over the link."""
        kept = 1 - self.share
        rest = [replace(t, bytes=t.bytes * kept) if t.role in KV else t for t in work.traffic]
        rest.append(Traffic("queries and results", Role.HOST, work.activation_bytes * self.share))
        if self.disk:
            rest.append(Traffic("offloaded cache", Role.DISK, work.kv_bytes * self.disk))
        return replace(
            work,
            traffic=tuple(rest),
            matrix_flops=work.matrix_flops * kept,
            vector_flops=work.vector_flops * kept,
            special_ops=work.special_ops * kept,
        )


def _between_layers(main: Resident, edit: Streamed) -> Change:
    """A change that stores the residual stream after each layer and fetches it for the next.

    Both directions of the link run concurrently: the bytes of one are counted.
    """
    setting, layers = main.setting, len(main.model.layers)

    def change(rows: Sequence[Named], step: Step) -> list[Named]:
        elements = step.tokens * main.model.hidden
        copied = Changed(Copy(elements * bytes_per_element(setting.precision.wide)), edit)
        return [*rows, Named(f"{IN_LAYERS}activations_copy", copied, layers)]

    return change
