"""LFM2 (arXiv:2511.23404): short gated convolutions, and attention in some layers."""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import RMS_NORM, Block, MlpBlock, ShortConvBlock
from workloads.config import Config
from workloads.families.hybrid import attention
from workloads.layer import Layer
from workloads.model import Model, decoder

CONV, ATTENTION = "conv", "full_attention"


def _lfm2(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    attends = replace(attention(config, hidden, rotary=True), qk_norm=RMS_NORM)
    conv = ShortConvBlock(hidden, config.size("conv_L_cache", default=3), config.flag("conv_bias", False))
    attending = config.indices("full_attn_idxs", count)
    listed = [ATTENTION if attending is None or i in attending else CONV for i in range(count)]
    mixers: dict[str, Block] = {CONV: conv, ATTENTION: attends}
    mlp = MlpBlock(_width(config), "silu")
    tied = "tie_embedding" if "tie_embedding" in config.fields else "tie_word_embeddings"
    return decoder(
        "lfm2",
        hidden,
        config.size("vocab_size", default=65536),
        tuple(
            Layer((mixers[kind], mlp))
            for kind in config.per_layer("layer_types", count, (CONV, ATTENTION)) or listed
        ),
        config.size("max_position_embeddings", default=128_000),
        tied=config.flag(tied, True),
    )


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


FAMILY = {"lfm2": _lfm2}
