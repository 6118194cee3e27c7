"""Attention in a sliding window."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_blocks
from workloads.techniques.conditions import no_heads


@dataclass(frozen=True)
class WindowAttention(Technique):
    """Every position sees a window of the last ones, in prefill and decode."""

    name = "window-attention"
    aliases = ("window", "longformer", "sliding-window-attention")
    category = "sparsification"
    paper = "Longformer arXiv:2004.05150; Mistral 7B arXiv:2310.06825"
    removes = "attention beyond the window, and its cache"
    adds = "nothing"
    needs = "a model trained or fine-tuned with the window"
    quality = "retrained"
    slot = "which positions are attended to"
    example = "Llama-3.1-8B --hw h100 --prompt 8192"
    applies_with = "the kind of attention"
    refused_by = (no_heads,)

    window: int = parameter(4096, "positions that each one sees (Mistral: 4096)", low=1, high=100_000_000)

    def apply(self, schedule: Schedule) -> Schedule:
        """Layers that have a narrower window keep it."""

        def narrow(b: AttentionBlock) -> AttentionBlock:
            return replace(b, window=min(b.window or self.window, self.window))

        return with_blocks(schedule, AttentionBlock, narrow)
