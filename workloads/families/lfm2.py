"""LFM2 (arXiv:2511.23404): short gated convolutions, and attention in some layers; dense or with experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workloads.blocks import RMS_NORM, Block, MlpBlock, MoeBlock, ShortConvBlock
from workloads.config import Config
from workloads.families.common import decoder_of
from workloads.families.hybrid import attention
from workloads.layer import Layer
from workloads.model import Model

CONV, ATTENTION = "conv", "full_attention"


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


FAMILY = {"lfm2": _lfm2, "lfm2_moe": _lfm2_moe}
