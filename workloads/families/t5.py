"""T5 (arXiv:1910.10683) and Switch (arXiv:2101.03961), T5 with experts: relative positions, no biases."""

from __future__ import annotations

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


def _model(config: Config) -> Model:
    """Both stacks around their layers; they share the embedding of tokens."""
    hidden, heads = config.size("d_model"), config.size("num_heads")
    head_dim, count = config.size("d_kv"), config.layers("num_layers")
    of_encoder, of_decoder = (_alike if config.kind == "t5" else _spaced)(config, count)
    own, cross = AttentionBlock(heads, heads, head_dim), CrossAttentionBlock(heads, head_dim)
    encoder = tuple(Layer((EncoderAttentionBlock(heads, head_dim), mlp)) for mlp in of_encoder)
    decoder = tuple(Layer((own, cross, mlp)) for mlp in of_decoder)
    vocabulary = config.size("vocab_size")
    bias = RelativePositions(heads, config.size("relative_attention_num_buckets", default=32))
    table: tuple[Block, ...] = (TokenTable(vocabulary), bias)
    reading = Stack(hidden, encoder, table, (FinalNorm(),), scope="encoder.")
    head = Head(vocabulary, tied=config.flag("tie_word_embeddings", True))
    shared = (TokenTable(vocabulary, tied=True), bias)
    writing = Stack(hidden, decoder, shared, (FinalNorm(), head), scope="decoder.")
    return EncoderDecoder("", config.kind, vocabulary, UNLIMITED, writing, reading)


def _alike(config: Config, count: int) -> tuple[list[Block], list[Block]]:
    """T5's feed-forward blocks of encoder and decoder."""
    mlp: Block = _mlp(config)
    return [mlp] * count, [mlp] * config.layers("num_decoder_layers", default=count)


def _spaced(config: Config, count: int) -> tuple[list[Block], list[Block]]:
    """Switch's: evenly spaced layers, `num_sparse_encoder_layers` in the encoder, route to one expert."""
    width, act = config.size("d_ff"), activation(config, "dense_act_fn", default="relu")
    dense = MlpBlock(width, act, gated=False)
    number, bias = config.size("num_experts", default=8), config.flag("router_bias", False)
    experts = MoeBlock(number, 1, width, act, gated=False, router_bias=bias)

    def among(layers: int, sparse: int) -> list[Block]:
        if sparse > layers:
            raise InputError(
                f"{config.origin}: {sparse} sparse layers of {layers}; expected at most {layers}."
            )
        step = layers // sparse if sparse else 0
        return [experts if step and (i % step == 1 or step == 1) else dense for i in range(layers)]

    encoder = among(count, config.count("num_sparse_encoder_layers", 3))
    layers = config.layers("num_decoder_layers", default=count)
    return encoder, among(layers, config.count("num_sparse_decoder_layers", 3))


def _mlp(config: Config) -> MlpBlock:
    """`gated-gelu` in T5 v1.1, `relu` before."""
    given = config.text("feed_forward_proj", default="relu")
    gated, name = given.startswith("gated-"), given.removeprefix("gated-")
    if gated and name == "gelu":
        name = "gelu_new"  # what the reference takes it for
    inner = Config({"feed_forward_proj": name}, config.origin)
    return MlpBlock(config.size("d_ff"), activation(inner, "feed_forward_proj", default="relu"), gated=gated)


FAMILY = {"t5": _model, "switch_transformers": _model}
