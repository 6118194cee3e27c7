"""FlashAttention: scores never leave the chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import KERNELS, Target, Technique
from workloads.techniques.changes import attends, on


@dataclass(frozen=True)
class FlashAttention(Technique):
    """Attention as one kernel over tiles: no score is written to memory."""

    name = "flash-attention"
    aliases = ("fused-attention", "sdpa")
    level = "system"
    category = "graph and operator"
    paper = "FlashAttention arXiv:2205.14135"
    removes = "writes and reads of scores and probabilities; tiles in which everything is masked"
    adds = "nothing in inference"
    needs = "a kernel for the head size and the mask"
    quality = "exact"
    slot = "the attention kernel"
    order = KERNELS
    without = {"scores_on_chip": False, "causal_exact": False}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """What is counted already cannot be saved again."""
        if not attends(schedule):
            return "the model has no attention"
        convention = schedule.main.setting.convention
        return self.already(convention) if convention.scores_on_chip else None

    def apply(self, schedule: Schedule) -> Schedule:
        """The same products without the traffic of scores, and without the pairs above the diagonal."""

        def fuse(core: Any) -> Attention:
            return replace(core, fused=True, causal_exact=True)  # type: ignore[no-any-return]

        return schedule.with_change(on(Attention, fuse))
