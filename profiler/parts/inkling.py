"""Inkling: biases by distance in place of positions, and short convolutions of keys, values and results."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, FACTORS, HEADS, Gap, named
from profiler.parts.dense import LLAMA, OUTSIDE, PRODUCT
from profiler.parts.experts import routed

_CONVOLUTIONS = {
    **named("self_attn", ATTENTION, k_sconv="k_conv1d", v_sconv="v_conv1d"),
    "attn_sconv": "layers.attention_conv.conv1d",
    "mlp_sconv": "layers.mlp_conv.conv1d",
}
_SHARED = "shared_gate_proj + shared_up_proj + shared_act_mul + shared_down_proj"
_BIAS = f"{ATTENTION}.distance_bias"
INKLING = replace(
    LLAMA,
    modules={
        **LLAMA.modules,
        **named(
            "self_attn",
            ATTENTION,
            r_proj="profile_proj",
            rel_logits_proj="distance_bias",
        ),
        **_CONVOLUTIONS,
        "mlp.gate": "layers.moe.router + topk + shared_gate",
        "mlp.experts": routed("gate_up"),
        "mlp.shared_experts": f"layers.moe.{_SHARED}",
    },
    gaps=(
        Gap("attn_sconv", "post_attention_layernorm", "layers.attention_conv_residual"),
        PRODUCT,
        Gap("mlp.shared_experts", "mlp", "layers.moe.shared_sum", inside=True),
        Gap("mlp_sconv", "", "layers.mlp_conv_residual"),
    ),
    outside={**OUTSIDE, "model.embed_tokens": "embedding + embedding_norm"},
    behind={
        f"{ATTENTION}.kv_append": HEADS,  # positions
        _BIAS: HEADS,  # scaled by them
        "layers.mlp.down_proj": FACTORS,
        "final_norm": FACTORS,
    },
    packages=dict.fromkeys(_CONVOLUTIONS.values(), "causal_conv1d"),
)
