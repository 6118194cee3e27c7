"""MoA: a span for every head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.arrays import minimum
from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import on
from workloads.techniques.conditions import no_cache


@dataclass(frozen=True)
class MixtureOfAttention(Technique):
    """Each head has a span of its own, short for most and long for few."""

    name = "mixture-of-attention"
    aliases = ("moa",)
    category = "sparsification"
    paper = "MoA arXiv:2406.14909"
    removes = "attention and cache beyond each head's span"
    adds = "nothing"
    needs = "spans found by profiling the model; a kernel with a span per head"
    quality = "lossy"
    slot = "which positions are attended to"
    refused_by = (no_cache,)

    span: float = parameter(0.5, "mean span of a head over the context (MoA: 0.5)", low=0.001, high=1)

    def apply(self, schedule: Schedule) -> Schedule:
        """On average every head sees this share of what it saw."""

        def shorter(core: Any) -> Any:
            seen = core.kv_len if core.window is None else minimum(core.window, core.kv_len)
            return replace(core, window=seen * self.span)

        if self.span == 1:
            return schedule
        found = schedule.with_change(on(Attention, shorter))
        return found.with_main(cache_factor=schedule.main.cache_factor * self.span)
