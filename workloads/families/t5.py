"""T5: an encoder and a decoder with relative positions, no biases, RMSNorm (arXiv:1910.10683)."""

from __future__ import annotations

from dataclasses import replace

from workloads.architectures import EncoderDecoder
from workloads.blocks import (
    AttentionBlock,
    Block,
    CrossAttentionBlock,
    EncoderAttentionBlock,
    FinalNorm,
    Head,
    MlpBlock,
    RelativePositions,
    TokenTable,
)
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import UNLIMITED, Model, Stack


def _t5(config: Config) -> Model:
    hidden, heads = config.size("d_model"), config.size("num_heads")
    head_dim, count = config.size("d_kv"), config.layers("num_layers")
    mlp = _mlp(config)
    encoder = Layer((EncoderAttentionBlock(heads, head_dim), mlp))
    decoder = Layer((AttentionBlock(heads, heads, head_dim), CrossAttentionBlock(heads, head_dim), mlp))
    return encoder_decoder(
        config,
        "t5",
        hidden,
        heads,
        (encoder,) * count,
        (decoder,) * config.size("num_decoder_layers", default=count, most=2000),
    )


def encoder_decoder(
    config: Config,
    family: str,
    hidden: int,
    heads: int,
    encoder: tuple[Layer, ...],
    decoder: tuple[Layer, ...],
) -> Model:
    """Both stacks around their layers; they share the embedding of tokens."""
    vocabulary = config.size("vocab_size")
    bias = RelativePositions(heads, config.size("relative_attention_num_buckets", default=32))
    table: tuple[Block, ...] = (TokenTable(vocabulary), bias)
    reading = Stack(hidden, encoder, table, (FinalNorm(),), scope="encoder.")
    head = Head(vocabulary, tied=config.flag("tie_word_embeddings", True))
    shared = (replace(TokenTable(vocabulary), tied=True), bias)
    writing = Stack(hidden, decoder, shared, (FinalNorm(), head), scope="decoder.")
    return EncoderDecoder("", family, vocabulary, UNLIMITED, writing, reading)


def _mlp(config: Config) -> MlpBlock:
    """`gated-gelu` in T5 v1.1, `relu` before."""
    given = config.text("feed_forward_proj", default="relu")
    gated, name = given.startswith("gated-"), given.removeprefix("gated-")
    name = {"gelu_new": "gelu_tanh"}.get(name, "gelu_tanh" if gated and name == "gelu" else name)
    return MlpBlock(config.size("d_ff"), name, gated=gated)


FAMILY = {"t5": _t5}
