"""Mixture-of-Depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.model import Model
from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Change, Pass, Schedule
from workloads.step import Step
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import IN_LAYERS, also, share_of_layers


@dataclass(frozen=True)
class DepthRouting(Technique):
    """Every second layer processes only some of the tokens; the others skip it on the residual stream."""

    name = "mixture-of-depths"
    aliases = ("mod",)
    category = "dynamic inference"
    paper = "Mixture-of-Depths arXiv:2404.02258"
    removes = "work and cache of the tokens that skip a layer"
    adds = "a router per routed layer"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "which layers run"

    capacity: float = parameter(
        0.125, "share of tokens that a routed layer takes (the paper: 12.5 %)", low=0.001, high=1
    )
    every: int = parameter(2, "every so many layers one routes (the paper: 2)", low=1, high=1000)

    def apply(self, schedule: Schedule) -> Schedule:
        """Routed layers as a pass of their own, over fewer tokens."""
        if self.capacity == 1:
            return schedule
        share = 1 / self.every
        passes: list[Pass] = []
        for p in schedule.passes:
            if p.scope:
                passes.append(p)
                continue
            passes.append(
                replace(p, changes=(*p.changes, share_of_layers(1 - share), self._routers(p.model)))
            )
            routed = replace(p, changes=(*p.changes, _layers_only, share_of_layers(share)), scope="routed.")
            passes.append(self._fewer(routed))
        kept = 1 - share * (1 - self.capacity)
        found = replace(schedule, passes=tuple(passes))
        return found.with_main(cache_factor=schedule.main.cache_factor * kept)

    def _routers(self, model: Model) -> Change:
        """A product of every token with one column in each layer that routes (section 3.4)."""

        def make(rows: Sequence[Named], step: Step) -> list[Named]:
            column = Gemm(step.tokens, 1, model.hidden)
            return [Named(f"{IN_LAYERS}depth_router", column, len(model.layers) / self.every)]

        return also(make)

    def _fewer(self, p: Pass) -> Pass:
        """A prompt is shorter; of a decoding batch a part is processed, and sometimes none."""
        if p.q_len > 1:
            kept = max(1, round(p.q_len * self.capacity))
            dropped = p.q_len - kept
            encoded = p.memory - dropped if p.memory else 0
            return replace(p, q_len=kept, first=p.first - dropped, last=p.last - dropped, memory=encoded)
        expected = p.batch * self.capacity
        batch = max(1, round(expected))
        some = 1 - (1 - self.capacity) ** p.batch  # that at least one token of the batch is taken
        encoded = round(p.memory * self.capacity)  # of an encoder's positions, too
        seen = [encoded + max(1, round((kv - p.memory) * self.capacity)) for kv in (p.first, p.last)]
        return replace(p, batch=batch, first=seen[0], last=seen[1], memory=encoded, times=p.times * some)


def _layers_only(rows: Sequence[Named], step: Step) -> list[Named]:
    return [row for row in rows if IN_LAYERS in row.name]
