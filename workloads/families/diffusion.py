"""Diffusion language models: LLaDA, a Llama block without a mask."""

from __future__ import annotations

from workloads.architectures import Diffusion
from workloads.blocks import (
    EncoderAttentionBlock,
    FinalNorm,
    Head,
    MlpBlock,
    TokenTable,
)
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import Model, Stack


def _llada(config: Config) -> Model:
    """A Llama (arXiv:2502.09992) whose attention is bidirectional, all positions projected."""
    hidden, heads = config.size("d_model", "hidden_size"), config.size("n_heads", "num_attention_heads")
    config.divides("d_model", hidden, "n_heads", heads)
    if config.size("n_kv_heads", default=heads) != heads:
        raise config.wrong("n_kv_heads", f"n_heads, {heads}: grouped heads are not known in this family")
    vocabulary, head_dim = config.size("embedding_size", "vocab_size"), hidden // heads
    layer = Layer(
        (
            EncoderAttentionBlock(heads, head_dim, rotary_dim=head_dim),
            MlpBlock(config.size("mlp_hidden_size", "intermediate_size"), "silu"),
        )
    )
    stack = Stack(
        hidden,
        (layer,) * config.layers("n_layers", "num_hidden_layers"),
        (TokenTable(vocabulary),),
        (FinalNorm(), Head(vocabulary, config.flag("weight_tying", False))),
    )
    return Diffusion("", "llada", vocabulary, config.size("max_sequence_length", default=4096), stack)


FAMILY = {"llada": _llada}
