"""Layers, heads, channels and experts that matter least are removed for good."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock, MlaBlock, MlpBlock, MoeBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks, with_fewer_layers
from workloads.techniques.conditions import no_experts


@dataclass(frozen=True)
class LayerPruning(Technique):
    """Layers that change the residual stream least are removed for good."""

    name = "layer-pruning"
    aliases = ("shortgpt", "depth-pruning")
    category = "sparsification"
    paper = "ShortGPT arXiv:2403.03853"
    removes = "whole layers: their weights, their work and their cache"
    needs = "a measure of what a layer changes; optionally short fine-tuning"
    quality = "lossy"
    slot = "how many layers there are"
    on_arrays = True

    ratio: float = parameter(0.25, "share of layers removed (ShortGPT: 0.25)", low=0, high=0.95)

    def apply(self, schedule: Schedule) -> Schedule:
        """Every kind of layer keeps its share."""
        return with_fewer_layers(schedule, 1 - self.ratio)


@dataclass(frozen=True)
class StructuredPruning(Technique):
    """Attention heads and feed-forward channels that matter least are removed for good."""

    name = "structured-pruning"
    aliases = ("llm-pruner", "sheared-llama")
    category = "sparsification"
    paper = "LLM-Pruner arXiv:2305.11627; Sheared LLaMA arXiv:2310.06694"
    removes = "whole rows and columns of the layers' matrices: their weights, their work and their cache"
    needs = "pruning and short fine-tuning"
    quality = "retrained"
    slot = "the width of layers"
    on_arrays = True

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


@dataclass(frozen=True)
class ExpertPruning(Technique):
    """Experts that are chosen least are removed for good."""

    name = "expert-pruning"
    aliases = ("moe-pruning", "experts-pruning")
    category = "sparsification"
    paper = "Lu et al. arXiv:2402.14800"
    removes = "experts: their weights in memory, and reads of them at a batch"
    needs = "a count of how often each expert is chosen"
    quality = "lossy"
    slot = "how many experts there are"
    on_arrays = True
    example = "Mixtral-8x7B --hw h200"
    refused_by = (no_experts,)

    kept: float = parameter(
        0.75, "share of experts that stay (Lu et al.: 6 or 4 of Mixtral's 8)", low=0.001, high=1
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """A token still selects as many experts, if as many remain."""

        def fewer(b: MoeBlock) -> MoeBlock:
            experts = max(1, round(b.experts * self.kept))
            return replace(b, experts=experts, top_k=min(b.top_k, experts))

        return with_blocks(schedule, MoeBlock, fewer)
