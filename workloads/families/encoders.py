"""Encoders of the kind of BERT: learned positions, biases everywhere, norms behind each addition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workloads.architectures import Encoder
from workloads.blocks import (
    Block,
    EmbeddingNorm,
    EncoderAttentionBlock,
    LinformerBlock,
    MlpBlock,
    Pooler,
    PositionTable,
    Sparsity,
    TokenTable,
    TypeTable,
)
from workloads.config import Config
from workloads.families.common import LAYER_NORM, plain_mlp, width_and_heads
from workloads.layer import Layer
from workloads.model import Model, Stack

ROBERTAS = ("roberta", "xlm-roberta", "camembert", "data2vec-text")  # of one code
# Rows before the first position's; one is that of padding.
RESERVED = dict.fromkeys((*ROBERTAS, "longformer"), 2)
GLOBAL_TOKENS = 1  # the first one, which stands for the sequence (arXiv:2004.05150)


def _encoder(
    config: Config,
    attention: Sequence[Block],
    mlp: MlpBlock,
    *,
    hidden: int,
    positions: int,
    reserved: int = 0,
    types: int = 0,
    pooled: bool = True,
) -> Model:
    vocabulary = config.size("vocab_size")
    inputs: list[Block] = [TokenTable(vocabulary), PositionTable(positions)]
    if types:
        inputs.append(TypeTable(types))
    layers = tuple(
        Layer((block, mlp), LAYER_NORM, input_norms=False, stream_norms=True) for block in attention
    )
    outputs = (Pooler(),) if pooled else ()
    stack = Stack(hidden, layers, (*inputs, EmbeddingNorm(LAYER_NORM)), outputs)
    return Encoder("", config.kind, vocabulary, positions - reserved, stack)


def _bert(config: Config) -> Model:
    (hidden, heads), count = width_and_heads(config), config.layers("num_hidden_layers")
    if config.kind == "big_bird" and not config.flag("use_bias", True):
        raise config.wrong("use_bias", "true: queries, keys and values without biases are not known")
    block = EncoderAttentionBlock(heads, hidden // heads, bias=True)
    return _encoder(
        config,
        _attention(config, block, count),
        plain_mlp(config, "gelu"),
        hidden=hidden,
        positions=config.size("max_position_embeddings", default=4096 if config.kind == "big_bird" else 512),
        reserved=RESERVED.get(config.kind, 0),
        types=config.size("type_vocab_size", default=2),
    )


def _attention(config: Config, block: EncoderAttentionBlock, layers: int) -> Sequence[Block]:
    """The attention of each layer: full, a band with global positions, blocks, or of low rank."""
    family = config.kind
    if family == "longformer":
        windows = config.sizes("attention_window", layers, default=512)
        if any(window % 2 for window in windows):
            raise config.wrong("attention_window", "even numbers, a half of each on either side")
        return [
            replace(block, sparsity=Sparsity(1, window // 2, GLOBAL_TOKENS), global_projections=True)
            for window in windows
        ]
    if family == "big_bird" and config.text("attention_type", default="block_sparse") == "block_sparse":
        # two global blocks, the first and the last; the band has a neighbour on either side
        size, random = config.size("block_size", default=64), config.size("num_random_blocks", default=3)
        return [replace(block, sparsity=Sparsity(size, 1, 2, random))] * layers
    if family == "linformer":
        return [_shortened(config, block)] * layers
    return [block] * layers


def _shortened(config: Config, block: EncoderAttentionBlock) -> LinformerBlock:
    """Linformer (arXiv:2006.04768): BERT's fields, `projected_length` and how `sharing` its matrices."""
    sharing = config.text("sharing", default="headwise")
    if sharing not in ("headwise", "key-value"):
        raise config.wrong("sharing", "headwise or key-value")
    longest = config.size("max_position_embeddings", default=512)
    rank = config.size("projected_length")
    config.within("projected_length", rank, "max_position_embeddings", longest)
    shared = sharing == "key-value"
    return LinformerBlock(block.heads, block.head_dim, rank, longest, shared, bias=True, out_bias=True)


def _distilbert(config: Config) -> Model:
    hidden, heads = width_and_heads(config, ("dim", "hidden_size"), ("n_heads", "num_attention_heads"))
    count = config.layers("n_layers", "num_hidden_layers")
    return _encoder(
        config,
        [EncoderAttentionBlock(heads, hidden // heads, bias=True)] * count,
        plain_mlp(config, "gelu", width=("hidden_dim", "intermediate_size"), named=("activation",)),
        hidden=hidden,
        positions=config.size("max_position_embeddings", default=512),
        pooled=False,
    )


KINDS = ("bert", *ROBERTAS, "longformer", "big_bird", "linformer")
FAMILY = {**dict.fromkeys(KINDS, _bert), "distilbert": _distilbert}
