"""Multi-query and grouped-query attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks


@dataclass(frozen=True)
class GroupedQuery(Technique):
    """Query heads share fewer key-value heads; one head shared by all is multi-query attention."""

    name = "grouped-query-attention"
    aliases = ("gqa",)
    variants = {"mqa": {"kv_heads": 1}, "multi-query-attention": {"kv_heads": 1}}
    category = "efficient structure"
    paper = "MQA arXiv:1911.02150; GQA arXiv:2305.13245"
    removes = "key-value heads: their projections, their cache, its reads"
    adds = "nothing"
    needs = "a model trained or up-trained with fewer heads (GQA: 5 % of pre-training)"
    quality = "retrained"
    slot = "the kind of attention"
    example = "Llama-2-7B --hw h100"

    kv_heads: int = parameter(8, "key-value heads (GQA: 8; MQA: 1)", low=1, high=1024)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be more key-value heads, which can be shared evenly."""
        found = blocks(schedule, AttentionBlock)
        if not found:
            return "the model has no attention with key-value heads"
        if max(b.kv_heads for b in found) < self.kv_heads:
            return f"the model has {found[0].kv_heads} key-value heads, no more than {self.kv_heads}"
        if any(b.heads % self.kv_heads for b in found):
            return f"{found[0].heads} query heads cannot share {self.kv_heads} evenly"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Everything else of the attention stays."""
        return with_blocks(
            schedule, AttentionBlock, lambda b: replace(b, kv_heads=min(b.kv_heads, self.kv_heads))
        )
