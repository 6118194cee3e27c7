"""Whisper (arXiv:2212.04356): an encoder of 30 s of audio and a decoder of text, normed as GPT-2 is."""

from __future__ import annotations

from workloads.architectures import SpeechToText
from workloads.blocks import (
    AttentionBlock,
    Block,
    CrossAttentionBlock,
    EncoderAttentionBlock,
    FinalNorm,
    FrameEmbedding,
    Head,
    MlpBlock,
    PositionTable,
    TokenTable,
)
from workloads.config import Config
from workloads.families.common import LAYER_NORM, activation
from workloads.layer import Layer
from workloads.model import Model, Stack


def _whisper(config: Config) -> Model:
    hidden, vocabulary = config.size("d_model", default=384), config.size("vocab_size", default=51865)
    window = config.size("max_source_positions", default=1500)
    longest = config.size("max_target_positions", default=448)
    act = activation(config, "activation_function", default="gelu")

    def stack(side: str, mixers: tuple[Block, ...], inputs: tuple[Block, ...], *outputs: Block) -> Stack:
        mlp = MlpBlock(config.size(f"{side}_ffn_dim", default=1536), act, gated=False, bias=True)
        layers = (Layer((*mixers, mlp), LAYER_NORM),) * config.layers(f"{side}_layers")
        return Stack(hidden, layers, inputs, (FinalNorm(LAYER_NORM), *outputs), f"{side}.")

    def heads(side: str) -> tuple[int, int]:
        count = config.size(f"{side}_attention_heads", default=6)
        config.divides("d_model", hidden, f"{side}_attention_heads", count)
        return count, hidden // count

    count, dim = heads("decoder")
    own = AttentionBlock(count, count, dim, qkv_bias=True, out_bias=True, key_bias=False)
    cross = CrossAttentionBlock(count, dim, bias=True, key_bias=False)
    tables = TokenTable(vocabulary), PositionTable(longest)
    head = Head(vocabulary, config.flag("tie_word_embeddings", True))
    writing = stack("decoder", (own, cross), tables, head)
    frames = FrameEmbedding(config.size("num_mel_bins", default=80)), PositionTable(window)
    reading = stack("encoder", (EncoderAttentionBlock(*heads("encoder"), bias=True, key_bias=False),), frames)
    return SpeechToText("", config.kind, vocabulary, longest, writing, reading, window)


FAMILY = {"whisper": _whisper}
