"""Structured pruning of heads and channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock, MlpBlock
from workloads.schedule import Schedule
from workloads.techniques.base import STRUCTURE, Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks


@dataclass(frozen=True)
class StructuredPruning(Technique):
    """Attention heads and feed-forward channels that matter least are removed for good."""

    name = "structured-pruning"
    aliases = ("llm-pruner", "sheared-llama")
    level = "model"
    category = "sparsification"
    paper = "LLM-Pruner arXiv:2305.11627; Sheared LLaMA arXiv:2310.06694"
    removes = "whole rows and columns of the layers' matrices: their weights, their work and their cache"
    adds = "nothing"
    needs = "pruning and a little training"
    quality = "retrained"
    slot = "the width of layers"
    order = STRUCTURE

    ratio: float = parameter(
        0.25, "share of heads and channels removed (LLM-Pruner: 0.2 to 0.5)", low=0, high=0.95
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be heads or channels to remove."""
        if any(blocks(schedule, kind) for kind in (AttentionBlock, MlpBlock)):
            return None
        return "the model has no dense attention or feed-forward block"

    def apply(self, schedule: Schedule) -> Schedule:
        """Groups of query heads leave with their key-value head, as far as whole groups go."""
        kept = 1 - self.ratio

        def heads(b: AttentionBlock) -> AttentionBlock:
            groups = max(1, round(b.kv_heads * kept))
            return replace(b, heads=b.heads // b.kv_heads * groups, kv_heads=groups)

        narrow = with_blocks(schedule, AttentionBlock, heads)
        return with_blocks(narrow, MlpBlock, lambda b: replace(b, width=max(1, round(b.width * kept))))
