"""Attention of low rank: Linformer."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import EncoderAttentionBlock, LinformerBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks


@dataclass(frozen=True)
class Linformer(Technique):
    """Keys and values are shortened along the sequence, so that attention is linear in its length."""

    name = "linformer"
    aliases = ("low-rank-attention",)
    category = "efficient structure"
    paper = "Linformer arXiv:2006.04768"
    removes = "scores of every pair of positions: each sees a fixed number of mixtures"
    adds = "two products along the sequence, and their matrices in every layer"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    example = "BERT-base-uncased --hw h100 --prompt 512"

    rank: int = parameter(
        128,
        "mixtures that a position sees (section 5.1: 128 for 512 positions, 256 for 1024)",
        low=1,
        high=1_000_000,
    )
    sharing: str = parameter(
        "headwise",
        "matrices of a layer: one for keys and one for values, or one",
        among=("headwise", "key-value"),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """A mixture holds later positions, which a decoder must not see."""
        found = blocks(schedule, EncoderAttentionBlock)
        if not found:
            return "mixtures of all positions need an encoder, and the model is none with full attention"
        if any(b.sparsity for b in found):
            return "the model's attention is sparse already"
        positions = schedule.main.model.max_position
        return (
            None if self.rank <= positions else f"the model has {positions} positions, fewer than {self.rank}"
        )

    def apply(self, schedule: Schedule) -> Schedule:
        """Projections and heads stay."""
        positions = schedule.main.model.max_position

        def shortened(b: EncoderAttentionBlock) -> LinformerBlock:
            out_bias = b.bias if b.out_bias is None else b.out_bias
            shared = self.sharing == "key-value"
            return LinformerBlock(b.heads, b.head_dim, self.rank, positions, shared, b.bias, out_bias)

        return with_blocks(schedule, EncoderAttentionBlock, shortened)
