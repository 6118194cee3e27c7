"""Structured pruning of heads and channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock, MlaBlock, MlpBlock, MoeBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks


@dataclass(frozen=True)
class StructuredPruning(Technique):
    """Attention heads and feed-forward channels that matter least are removed for good."""

    name = "structured-pruning"
    aliases = ("llm-pruner", "sheared-llama")
    category = "sparsification"
    paper = "LLM-Pruner arXiv:2305.11627; Sheared LLaMA arXiv:2310.06694"
    removes = "whole rows and columns of the layers' matrices: their weights, their work and their cache"
    adds = "nothing"
    needs = "pruning and short fine-tuning"
    quality = "retrained"
    slot = "the width of layers"

    ratio: float = parameter(
        0.25, "share of heads and channels removed (LLM-Pruner: 0.2 to 0.5)", low=0, high=0.95
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be heads or channels to remove."""
        if any(blocks(schedule, kind) for kind in (AttentionBlock, MlaBlock, MlpBlock, MoeBlock)):
            return None
        return "the model has no attention heads or feed-forward channels that are known here"

    def apply(self, schedule: Schedule) -> Schedule:
        """Groups of query heads leave with their key-value head, as far as whole groups go.

        Every expert loses its share of channels.
        """
        kept = 1 - self.ratio

        def heads(b: AttentionBlock) -> AttentionBlock:
            groups = max(1, round(b.kv_heads * kept))
            return replace(b, heads=b.heads // b.kv_heads * groups, kv_heads=groups)

        def channels(b: MlpBlock) -> MlpBlock:
            return replace(b, width=max(1, round(b.width * kept)))

        def experts(b: MoeBlock) -> MoeBlock:
            shared = channels(b.shared) if b.shared else None
            return replace(b, width=max(1, round(b.width * kept)), shared=shared)

        found = with_blocks(schedule, AttentionBlock, heads)
        found = with_blocks(found, MlaBlock, lambda b: replace(b, heads=max(1, round(b.heads * kept))))
        return with_blocks(with_blocks(found, MlpBlock, channels), MoeBlock, experts)
