"""Kernel attention: Linear Transformer, Performer, RFA."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import AttentionBlock, KernelAttentionBlock
from workloads.operators.features import FEATURE_KINDS
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import with_blocks
from workloads.techniques.conditions import no_heads


@dataclass(frozen=True)
class LinearAttention(Technique):
    """Features of queries and keys replace the softmax, so that sums of fixed size replace the cache."""

    name = "linear-attention"
    aliases = ("linear-transformer", "kernel-attention")
    variants = {
        "performer": {"function": "positive"},
        "rfa": {"function": "trigonometric"},
        "random-feature-attention": {"function": "trigonometric"},
    }
    category = "efficient structure"
    paper = "Linear Transformer arXiv:2006.16236; Performer arXiv:2009.14794; RFA arXiv:2103.02143"
    removes = "attention that grows with the context, and its cache"
    adds = (
        "the feature map; sums per sequence and head that every step reads and writes; a key per query head"
    )
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    refused_by = (no_heads,)

    function: str = parameter(
        "elu", "Linear Transformer: elu; Performer: positive; RFA: trigonometric", among=FEATURE_KINDS
    )
    features: int = parameter(256, "random features of a head, which elu has not", low=2, high=65536)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It replaces attention with key-value heads; sines and cosines come in pairs."""
        if self.function == "trigonometric" and self.features % 2:
            return f"{self.features} features are no pairs of a sine and a cosine"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """Every head has queries, keys and values of its own, without rotation or norms, as in the papers."""
        return with_blocks(schedule, AttentionBlock, self._of)

    def _of(self, old: AttentionBlock) -> KernelAttentionBlock:
        function = next(kind for kind in FEATURE_KINDS if kind == self.function)
        features = old.head_dim if function == "elu" else self.features
        return KernelAttentionBlock(old.heads, old.head_dim, features, function, old.qkv_bias, old.out_bias)
