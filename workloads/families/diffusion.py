"""Diffusion language models: LLaDA, a Llama without a mask, and SEDD, which knows its noise level."""

from __future__ import annotations

from workloads.architectures import Diffusion
from workloads.blocks import (
    EncoderAttentionBlock,
    FinalModulation,
    FinalNorm,
    Head,
    MlpBlock,
    NoiseLevel,
    TokenTable,
)
from workloads.config import Config
from workloads.families.common import BARE_LAYER_NORM, width_and_heads
from workloads.layer import Layer
from workloads.model import Model, Stack


def _llada(config: Config) -> Model:
    """A Llama (arXiv:2502.09992) whose attention is bidirectional, all positions projected."""
    hidden, heads = width_and_heads(config, ("d_model", "hidden_size"), ("n_heads", "num_attention_heads"))
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
    return Diffusion("", config.kind, vocabulary, config.size("max_sequence_length", default=4096), stack)


NOISE_WAVES = 256  # sines and cosines of the noise level (the reference's TimestepEmbedder)


def _sedd(config: Config) -> Model:
    """Score entropy discrete diffusion (arXiv:2310.16834) as its authors' SEDD module has it.

    Fields are those of their `config.json`: sizes under `model`, and one token more where `graph` absorbs.
    """
    sizes, graph = config.nested("model"), config.nested("graph")
    hidden, heads = width_and_heads(sizes, heads=("n_heads",))
    kind = graph.text("type", default="absorb")
    if kind not in ("absorb", "uniform"):
        raise graph.wrong("type", "absorb or uniform")
    vocabulary = config.size("tokens") + (kind == "absorb")
    condition, head_dim = sizes.size("cond_dim"), hidden // heads
    layer = Layer(
        (
            EncoderAttentionBlock(heads, head_dim, rotary_dim=head_dim, fused_qkv=True),
            MlpBlock(4 * hidden, "gelu_tanh", gated=False, bias=True),
        ),
        BARE_LAYER_NORM,
        condition=condition,
    )
    stack = Stack(
        hidden,
        (layer,) * sizes.layers("n_blocks"),
        (TokenTable(vocabulary), NoiseLevel(NOISE_WAVES, condition)),
        (FinalNorm(BARE_LAYER_NORM), FinalModulation(condition), Head(vocabulary, bias=True)),
    )
    return Diffusion("", config.kind, vocabulary, sizes.size("length", default=1024), stack)


FAMILY = {"llada": _llada, "sedd": _sedd}
