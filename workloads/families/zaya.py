"""ZAYA (Zyphra): convolved queries and keys, routers that carry a state, scaled residuals."""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import CarriedMoeBlock, ConvolvedAttentionBlock, ScaledInput
from workloads.config import Config
from workloads.families.common import activation, decoder_of, head_dim_of, kv_heads_of, rotated
from workloads.layer import Layer
from workloads.model import Model

FULL, NEAR = "hybrid", "hybrid_sliding"


def _zaya(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    kinds = config.per_layer("layer_types", count, (FULL, NEAR)) or [FULL] * count
    window = config.optional_size("sliding_window")
    if window is None and NEAR in kinds:
        raise config.wrong("sliding_window", "a whole number, as layers have a window")
    if config.size("num_experts_per_tok", default=1) != 1:
        raise config.wrong("num_experts_per_tok", "1: its router picks one")
    heads, bias = config.size("num_attention_heads"), config.flag("attention_bias", False)
    kv_heads, width = kv_heads_of(config, heads, 2), head_dim_of(config, hidden, heads, 128)
    rope = config.nested("rope_parameters")
    if kv_heads * width % 2:
        raise config.wrong("head_dim", "such that values have two halves")
    attention = {
        kind: ConvolvedAttentionBlock(
            heads,
            kv_heads,
            width,
            rotated(rope.nested(kind), width, 0.5),
            window if kind == NEAR else None,
            qkv_bias=bias,
            out_bias=bias,
            taps=(config.size("cca_time0", default=2), config.size("cca_time1", default=2)),
        )
        for kind in (FULL, NEAR)
    }
    experts = CarriedMoeBlock(
        config.size("num_experts", default=16),
        1,
        config.size("moe_intermediate_size", default=2048),
        activation(config, "hidden_act", default="silu"),
        router_width=config.size("router_hidden_size", default=256),
    )
    layers = [
        Layer((attention[kind], replace(experts, carries=i > 0)), residual_vectors=4)
        for i, kind in enumerate(kinds)
    ]
    bias = config.flag("lm_head_bias", False)
    model = decoder_of(config, hidden, layers, positions=131_072, tied=True, head_bias=bias)
    inputs = (*model.stack.inputs, ScaledInput(hidden))
    return replace(model, stack=replace(model.stack, inputs=inputs))


FAMILY = {"zaya": _zaya}
