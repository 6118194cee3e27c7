"""FlashAttention: scores never leave the chip."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique
from workloads.techniques.changes import on
from workloads.techniques.conditions import attends


@dataclass(frozen=True)
class FlashAttention(Technique):
    """Attention as one kernel over tiles: no score is written to memory."""

    name = "flash-attention"
    aliases = ("fused-attention", "sdpa")
    category = "graph and operator"
    paper = "FlashAttention arXiv:2205.14135"
    removes = "writes and reads of scores and probabilities; tiles in which everything is masked"
    adds = "nothing in inference"
    needs = "a kernel for the head size and the mask"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "the attention kernel"
    without = {"scores_on_chip": False, "causal_exact": False}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        if not attends(schedule):
            return "the model has no attention"
        return self.already(schedule.convention) if schedule.convention.scores_on_chip else None

    def apply(self, schedule: Schedule) -> Schedule:
        """The same products without the traffic of scores, and without the pairs above the diagonal."""
        return schedule.with_change(on(Attention, lambda core: replace(core, fused=True, causal_exact=True)))
