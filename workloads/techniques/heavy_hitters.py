"""H2O: evict what is not attended to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.arrays import minimum
from workloads.operators import Attention, Residual
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import each_row
from workloads.techniques.conditions import no_cache, no_decoding


@dataclass(frozen=True)
class HeavyHitters(Technique):
    """The cache keeps the last tokens and those that were attended to most; the others are dropped."""

    name = "h2o"
    aliases = ("heavy-hitter-oracle", "kv-eviction", "kv-cache-eviction")
    category = "dynamic inference"
    paper = "H2O arXiv:2306.14048"
    removes = "keys and values of dropped tokens, from memory and from every step"
    adds = "a running sum of attention weights per kept position and head"
    needs = "an attention kernel that gives its weights"
    quality = "lossy"
    slot = "which positions are attended to"
    refused_by = (no_decoding, no_cache)

    share: float = parameter(0.2, "share of the prompt that is kept (H2O: 0.2)", low=0.001, high=1)

    def apply(self, schedule: Schedule) -> Schedule:
        """A budget from the prompt's length; the prefill sees everything and drops afterwards."""
        if self.share == 1:
            return schedule
        budget = max(1, round(self.share * schedule.prompt))

        def capped(row: Named) -> list[Named]:
            if not isinstance(row.operator, Attention):
                return [row]
            core = replace(row.operator, kv_len=minimum(row.operator.kv_len, budget))
            sums = Residual(1, core.batch * core.heads * core.kv_len, "fp32")
            return [replace(row, operator=core), replace(row, name=f"{row.name}.sums", operator=sums)]

        held = min(schedule.main.tokens, budget)
        return schedule.with_change(each_row(capped), "decode").with_main(tokens=held)
