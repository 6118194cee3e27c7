"""H2O: evict what is not attended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloads.arrays import minimum
from workloads.operators import Attention, Residual
from workloads.schedule import Schedule
from workloads.techniques.base import CACHE, Target, Technique, parameter
from workloads.techniques.changes import NOTHING_DECODED, caches, decodes

if TYPE_CHECKING:
    from workloads.phases import Named
    from workloads.step import Step


@dataclass(frozen=True)
class HeavyHitters(Technique):
    """The cache keeps the last tokens and those that were attended to most; the others are dropped."""

    name = "h2o"
    aliases = ("heavy-hitter-oracle", "kv-eviction", "kv-cache-eviction")
    level = "model"
    category = "dynamic inference"
    paper = "H2O arXiv:2306.14048"
    removes = "keys and values of dropped tokens, from memory and from every step"
    adds = "a running sum of attention weights per kept position and head"
    needs = "an attention kernel that gives its weights"
    quality = "lossy"
    slot = "which positions are attended to"
    order = CACHE

    share: float = parameter(0.2, "share of the prompt that is kept (H2O: 0.2)", low=0.001, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It acts on decode steps of attention."""
        if not decodes(schedule):
            return NOTHING_DECODED
        return None if caches(schedule) else "the model keeps no keys and values"

    def apply(self, schedule: Schedule) -> Schedule:
        """A budget from the prompt's length; the prefill sees everything and drops afterwards."""
        if self.share == 1:
            return schedule
        budget = max(1, round(self.share * schedule.prompt))

        def capped(rows: Sequence[Named], step: Step) -> list[Named]:
            found: list[Named] = []
            for row in rows:
                core = row.operator
                if isinstance(core, Attention):
                    core = replace(core, kv_len=minimum(core.kv_len, budget))
                    kept = core.batch * core.heads * core.kv_len
                    sums = Residual(1, kept, "fp32")
                    found += [
                        replace(row, operator=core),
                        replace(row, name=f"{row.name}.sums", operator=sums),
                    ]
                else:
                    found.append(row)
            return found

        held = min(schedule.main.tokens, budget)
        return schedule.with_change(capped, "decode").with_main(tokens=held)
