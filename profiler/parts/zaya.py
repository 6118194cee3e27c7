"""ZAYA: convolved queries and keys, and routers that carry a state from layer to layer."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, HEADS, Gap, named, norms
from profiler.parts.dense import LLAMA
from profiler.parts.experts import routed

_MAKES, _CHOOSES, _MLP = "self_attn.qkv_proj", "mlp.gate", "mlp.gate.router_mlp"
_CONV = f"{ATTENTION}.qk_conv1d"
ZAYA = replace(
    LLAMA,
    modules={
        **norms("input_layernorm", "post_attention_layernorm"),
        **named(
            _MAKES,
            ATTENTION,
            *("q_proj", "k_proj"),
            v_proj_current="v_proj",
            v_proj_delayed="v_before_proj",
            conv_qk_depthwise="qk_conv1d",
            conv_qk_grouped="qk_mix",
        ),
        **named("self_attn", ATTENTION, "o_proj", qk_norm="q_norm + k_norm + k_scale"),
        "post_attention_residual_scale": "layers.attention_residual",
        f"{_CHOOSES}.down_proj": "layers.moe.narrow_router",
        **named(
            _MLP,
            "layers.moe",
            norm="router_norm",
            fc1="first_router",
            fc2="second_router",
            out_proj="router",
        ),
        "mlp.experts": routed("gate_up"),
        "post_mlp_residual_scale": "layers.mlp_residual",
    },
    gaps=(
        Gap(f"{_CHOOSES}.down_proj", _MLP, "layers.moe.router_carry"),
        Gap(f"{_MLP}.fc1", f"{_MLP}.fc2", "layers.moe.first_router_act"),
        Gap(f"{_MLP}.fc2", f"{_MLP}.out_proj", "layers.moe.second_router_act"),
        Gap(_MLP, _CHOOSES, "layers.moe.topk", inside=True),
    ),
    functions={"update_conv_state": _CONV},
    behind={
        f"{ATTENTION}.k_proj": f"{ATTENTION}.qk_mean",
        f"{ATTENTION}.qk_mix": f"{ATTENTION}.qk_sum",
        f"{ATTENTION}.v_before_proj": HEADS,  # both halves of values joined
    },
    packages={_CONV: ""},
    widens=("model.rotary_emb", "model.layers.0"),
    widened="embedding_scale",
)
