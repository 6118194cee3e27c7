"""LFM2 (arXiv:2511.23404): short gated convolutions, and attention in some layers; dense or with experts.

LFM3 has windows in some of these, gates behind attention, and norms behind blocks, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workloads.blocks import (
    RMS_NORM,
    AttentionBlock,
    Block,
    MlpBlock,
    MoeBlock,
    OutputGateBlock,
    ShortConvBlock,
)
from workloads.config import Config
from workloads.families.common import decoder_of, rotated
from workloads.families.hybrid import attention
from workloads.families.llama import WINDOW_TYPES
from workloads.layer import Layer
from workloads.model import Model

CONV, NEAR, ATTENTION = "conv", *WINDOW_TYPES


def _lfm2(config: Config) -> Model:
    mlp = MlpBlock(_width(config), "silu")
    return _model(config, [mlp] * config.layers("num_hidden_layers"))


def _lfm2_moe(config: Config) -> Model:
    """Experts behind the first layers, which are dense; what corrects their choice is no weight."""
    count = config.layers("num_hidden_layers")
    dense = MlpBlock(config.size("intermediate_size", default=7168), "silu")
    number, chosen = config.size("num_experts", default=32), config.size("num_experts_per_tok", default=4)
    config.within("num_experts_per_tok", chosen, "num_experts", number)
    sparse = MoeBlock(number, chosen, config.size("moe_intermediate_size", default=1792), "silu")
    first = config.count("num_dense_layers", 2)
    return _model(config, [dense if i < first else sparse for i in range(count)])


def _model(config: Config, feed_forward: Sequence[Block]) -> Model:
    hidden, count = config.size("hidden_size"), len(feed_forward)
    attends = replace(attention(config, hidden, rotary=True), qk_norm=RMS_NORM)
    conv = ShortConvBlock(hidden, config.size("conv_L_cache", default=3), config.flag("conv_bias", False))
    attending = config.indices("full_attn_idxs", count)
    listed = [ATTENTION if attending is None or i in attending else CONV for i in range(count)]
    mixers: dict[str, Block] = {CONV: conv, ATTENTION: attends}
    kinds = config.per_layer("layer_types", count, (CONV, ATTENTION)) or listed
    tied_by = "tie_embedding" if "tie_embedding" in config.fields else "tie_word_embeddings"
    layers = [Layer((mixers[kind], wide)) for kind, wide in zip(kinds, feed_forward, strict=True)]
    return decoder_of(config, hidden, layers, vocabulary=65536, positions=128_000, tied_by=tied_by, tied=True)


def _width(config: Config) -> int:
    """Of the MLP: as it stands, or two thirds of it, times a factor, in whole multiples."""
    stated = config.size("block_ff_dim", "intermediate_size", default=12288)
    if not config.flag("block_auto_adjust_ff_dim", True):
        return stated
    width, whole = 2 * stated // 3, config.size("block_multiple_of", default=256)
    if config.fields.get("block_ffn_dim_multiplier", 1.0) is None:
        return width
    factor = 1.0
    if "block_ffn_dim_multiplier" in config.fields:
        factor = config.positive("block_ffn_dim_multiplier", most=100.0)
    return whole * -(-int(factor * width) // whole)


def _lfm3(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    config = Config({"head_dim": 128, **config.fields}, config.origin)
    gated = config.flag("use_attention_gate", True)
    full = attention(config, hidden, rotary=True, kind=OutputGateBlock if gated else AttentionBlock)
    full = replace(full, qk_norm=RMS_NORM)
    if isinstance(full, OutputGateBlock):
        full = replace(full, by_head=True)
    window = config.size("sliding_window", default=256)
    rope = config.nested("rope_parameters")
    mixers: dict[str, Block] = {
        CONV: ShortConvBlock(hidden, config.size("conv_L_cache", default=7), config.flag("conv_bias", False)),
        ATTENTION: replace(full, rotary_dim=rotated(rope.nested(ATTENTION), full.head_dim, 0.5)),
        NEAR: replace(full, window=window, rotary_dim=rotated(rope.nested(NEAR), full.head_dim)),
    }
    default = [ATTENTION if i % 4 == 2 else NEAR if i and i % 4 == 0 else CONV for i in range(count)]
    kinds = config.per_layer("layer_types", count, tuple(mixers)) or default
    mlp, sandwich = MlpBlock(config.size("intermediate_size"), "silu"), config.flag("use_sandwich_norm", True)
    layers = [Layer((mixers[kind], mlp), post_norms=sandwich) for kind in kinds]
    return decoder_of(config, hidden, layers, positions=128_000, tied=True)


FAMILY = {"lfm2": _lfm2, "lfm2_moe": _lfm2_moe, "lfm3": _lfm3}
