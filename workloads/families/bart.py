"""BART (arXiv:1910.13461): an encoder-decoder with biases, learned positions and norms behind each sum."""

from __future__ import annotations

from workloads.architectures import EncoderDecoder
from workloads.blocks import (
    AttentionBlock,
    Block,
    CrossAttentionBlock,
    EmbeddingNorm,
    EncoderAttentionBlock,
    Head,
    MlpBlock,
    PositionTable,
    TokenTable,
)
from workloads.config import Config
from workloads.families.common import LAYER_NORM, activation
from workloads.layer import Layer
from workloads.model import Model, Stack

UNUSED = 2  # rows of the tables of positions before the first position's


def _bart(config: Config) -> Model:
    hidden, vocabulary = config.size("d_model", default=1024), config.size("vocab_size", default=50265)
    longest = config.size("max_position_embeddings", default=1024)
    tied = config.flag("tie_word_embeddings", True)

    def stack(side: str, shared: bool, *outputs: Block) -> Stack:
        heads = config.size(f"{side}_attention_heads", default=16)
        config.divides("d_model", hidden, f"{side}_attention_heads", heads)
        act = activation(config, "activation_function", default="gelu")
        mlp = MlpBlock(config.size(f"{side}_ffn_dim", default=4096), act, gated=False, bias=True)
        blocks: tuple[Block, ...] = (EncoderAttentionBlock(heads, hidden // heads, bias=True), mlp)
        if side == "decoder":
            own = AttentionBlock(heads, heads, hidden // heads, qkv_bias=True, out_bias=True)
            blocks = own, CrossAttentionBlock(heads, hidden // heads, bias=True), mlp
        layer = Layer(blocks, LAYER_NORM, input_norms=False, stream_norms=True)
        table = TokenTable(vocabulary, tied=shared)
        inputs = (table, PositionTable(longest + UNUSED), EmbeddingNorm(LAYER_NORM))
        return Stack(hidden, (layer,) * config.layers(f"{side}_layers"), inputs, outputs, f"{side}.")

    reading, writing = stack("encoder", False), stack("decoder", True, Head(vocabulary, tied))
    return EncoderDecoder("", config.kind, vocabulary, longest, writing, reading)


FAMILY = {"bart": _bart}
