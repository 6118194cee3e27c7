"""T5 (arXiv:1910.10683) and Switch (arXiv:2101.03961), T5 with experts: relative positions, no biases."""

from __future__ import annotations

from dataclasses import replace

from specfiles.errors import InputError
from workloads.architectures import EncoderDecoder
from workloads.blocks import (
    AttentionBlock,
    Block,
    CrossAttentionBlock,
    EncoderAttentionBlock,
    FinalNorm,
    Head,
    MlpBlock,
    MoeBlock,
    RelativePositions,
    TokenTable,
)
from workloads.config import Config
from workloads.families.common import activation
from workloads.layer import Layer
from workloads.model import UNLIMITED, Model, Stack


def _t5(config: Config) -> Model:
    hidden, heads = config.size("d_model"), config.size("num_heads")
    head_dim, count = config.size("d_kv"), config.layers("num_layers")
    mlp = _mlp(config)
    encoder = Layer((EncoderAttentionBlock(heads, head_dim), mlp))
    decoder = Layer((AttentionBlock(heads, heads, head_dim), CrossAttentionBlock(heads, head_dim), mlp))
    return _encoder_decoder(
        config,
        hidden,
        heads,
        (encoder,) * count,
        (decoder,) * config.size("num_decoder_layers", default=count, most=2000),
    )


def _switch(config: Config) -> Model:
    """Of `num_sparse_encoder_layers` evenly spaced layers the MLP is a choice of one expert."""
    hidden, heads = config.size("d_model"), config.size("num_heads")
    head_dim, count = config.size("d_kv"), config.layers("num_layers")
    width, act = config.size("d_ff"), activation(config, "dense_act_fn", default="relu")
    dense = MlpBlock(width, act, gated=False)
    experts = MoeBlock(
        config.size("num_experts", default=8),
        1,
        width,
        act,
        gated=False,
        router_bias=config.flag("router_bias", False),
    )

    def layers(number: int, sparse: int, *mixers: Block) -> tuple[Layer, ...]:
        if sparse > number:
            raise InputError(
                f"{config.origin}: {sparse} sparse layers of {number}; expected at most {number}."
            )
        step = number // sparse if sparse else 0
        chosen = [bool(step) and (i % step == 1 or step == 1) for i in range(number)]
        return tuple(Layer((*mixers, experts if routed else dense)) for routed in chosen)

    cross = CrossAttentionBlock(heads, head_dim)
    encoder = layers(
        count, config.count("num_sparse_encoder_layers", 3), EncoderAttentionBlock(heads, head_dim)
    )
    decoder = layers(
        config.size("num_decoder_layers", default=count, most=2000),
        config.count("num_sparse_decoder_layers", 3),
        AttentionBlock(heads, heads, head_dim),
        cross,
    )
    return _encoder_decoder(config, hidden, heads, encoder, decoder)


def _encoder_decoder(
    config: Config,
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
    return EncoderDecoder("", config.kind, vocabulary, UNLIMITED, writing, reading)


def _mlp(config: Config) -> MlpBlock:
    """`gated-gelu` in T5 v1.1, `relu` before."""
    given = config.text("feed_forward_proj", default="relu")
    gated, name = given.startswith("gated-"), given.removeprefix("gated-")
    if gated and name == "gelu":
        name = "gelu_new"  # what the reference takes it for
    inner = Config({"feed_forward_proj": name}, config.origin)
    return MlpBlock(config.size("d_ff"), activation(inner, "feed_forward_proj", default="relu"), gated=gated)


FAMILY = {"t5": _t5, "switch_transformers": _switch}
