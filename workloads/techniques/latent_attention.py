"""Multi-head latent attention."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import AttentionBlock, MlaBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_blocks
from workloads.techniques.conditions import no_heads


@dataclass(frozen=True)
class LatentAttention(Technique):
    """Keys and values of all heads are expanded from one small latent, and only the latent is cached."""

    name = "multi-head-latent-attention"
    aliases = ("mla",)
    category = "efficient structure"
    paper = "DeepSeek-V2 arXiv:2405.04434"
    removes = "most of the KV cache and its reads"
    adds = "projections into and out of the latent; in decode, wider dot products"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    refused_by = (no_heads,)

    latent: int = parameter(512, "elements of the key-value latent (DeepSeek-V2: 512)", low=1, high=65536)
    rope: int = parameter(64, "rotated elements of the shared key (DeepSeek-V2: 64)", low=0, high=1024)

    def apply(self, schedule: Schedule) -> Schedule:
        """As many heads, each as wide as before beside its rotated part; queries are projected directly."""

        def latent(b: AttentionBlock) -> MlaBlock:
            return MlaBlock(b.heads, None, self.latent, b.head_dim, self.rope, b.head_dim)

        return with_blocks(schedule, AttentionBlock, latent)
