"""Gemma 3n and Gemma 4: embeddings of each layer, borrowed keys and values, alternating updates, experts."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import FACTORS, INPUTS, MLP, Family, Gap, Inside, named
from profiler.parts.dense import (
    GATED_ACTIVATION,
    GATED_MLP,
    GEMMA2,
    OUTSIDE,
    PRODUCT,
    QK_NORMS,
    SANDWICH_NORMS,
    SANDWICH_RESIDUALS,
    SELF_ATTENTION,
)
from profiler.parts.experts import routed, shared_mlp

_ATTENTION = {**SELF_ATTENTION, **QK_NORMS, "self_attn.v_norm": "layers.attention.v_norm"}
_MODULES = {**_ATTENTION, **GATED_MLP, **GATED_ACTIVATION, **SANDWICH_NORMS}
_PER_LAYER = {
    "per_layer_input_gate": "layers.per_layer.gate_proj",
    "act_fn": "layers.per_layer.act_mul",
    "per_layer_projection": "layers.per_layer.up_proj",
    "post_per_layer_input_norm": "layers.per_layer.norm",
}
_PER_LAYER_GAPS = (
    Gap("act_fn", "per_layer_projection", "layers.per_layer.act_mul"),
    Gap("post_per_layer_input_norm", "", "layers.per_layer.residual"),
)
_PER_LAYER_OUTSIDE = {
    "model.embed_tokens": "embedding",
    "model.embed_tokens_per_layer": "per_layer_embedding",
    "model.per_layer_model_projection": "per_layer_projection",
    "model.per_layer_projection_norm": "per_layer_projection_norm",
}
_PER_LAYER_BEHIND = {
    "per_layer_projection": FACTORS,
    "per_layer_projection_norm": "per_layer_sum",
    "lm_head": FACTORS,  # its results are capped
}
_PREPARES = ("model.project_per_layer_inputs",)

# Gemma 4: experts, where it has some, beside the MLP. A layer's last sum includes a constant factor.
_EXPERTS = {
    **{path: name for path, name in _MODULES.items() if not path.startswith("mlp.")},
    **shared_mlp("mlp", "act_fn"),
    "post_feedforward_layernorm_1": "layers.moe.shared_post_norm",
    "router.norm": "layers.moe.router_norm",
    "router.proj": "layers.moe.router",
    "pre_feedforward_layernorm_2": "layers.moe.experts_norm",
    "experts": routed("gate_up"),
    "post_feedforward_layernorm_2": "layers.moe.experts_post_norm",
}
GEMMA4 = replace(
    GEMMA2,
    modules=_MODULES,
    outside={**_PER_LAYER_OUTSIDE, **OUTSIDE},
    behind=_PER_LAYER_BEHIND,
    prepares=_PREPARES,
    kinds={
        "experts": Inside(
            _EXPERTS,
            (
                *SANDWICH_RESIDUALS,
                Gap("mlp.up_proj", "mlp.down_proj", "layers.moe.shared_act_mul"),
                Gap("router.norm", "router.proj", "layers.moe.router_norm"),
                Gap("router.proj", "router", "layers.moe.topk", inside=True),
                Gap("post_feedforward_layernorm_2", "post_feedforward_layernorm", "layers.moe.shared_sum"),
            ),
        ),
        "per_layer_input_gate": Inside(
            {**_MODULES, **_PER_LAYER},
            (
                SANDWICH_RESIDUALS[0],
                Gap("post_feedforward_layernorm", "per_layer_input_gate", "layers.mlp_residual"),
                PRODUCT,
                *_PER_LAYER_GAPS,
            ),
        ),
    },
)


def _altup(step: str, last: str) -> str:
    return f"layers.altup.{step}_norm + " + " + ".join(
        f"{step}_{part}" for part in ("router", "tanh", "coefficients", last)
    )


# Gemma 3n: each step of AltUp is a method, whose modules both steps use.
_OUT = "altup_out_norm + altup_mean"
GEMMA3N = Family(
    "model.layers",
    {
        **_MODULES,
        **_PER_LAYER,
        "altup.predict": _altup("predict", "mix"),
        "altup.correct": _altup("correct", "update"),
        **named("laurel", "layers.laurel", linear_left="left_proj", linear_right="right_proj"),
        "laurel.post_laurel_norm": "layers.laurel_post_norm",
    },
    (
        Gap("laurel.post_laurel_norm", "laurel", "layers.laurel.input_residual", inside=True),
        Gap(
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "layers.attention_residual + laurel_residual",
        ),
        Gap("mlp.gate_proj", "mlp.act_fn", f"{MLP}.gate_cut"),
        PRODUCT,
        Gap("post_feedforward_layernorm", "altup.correct", "layers.mlp_residual"),
        Gap("altup.correct", "per_layer_input_gate", _altup("correct", "update")),  # the update's scale
        *_PER_LAYER_GAPS,
    ),
    {
        **_PER_LAYER_OUTSIDE,
        **{f"model.altup_projections.{i}": "altup_in_proj" for i in range(7)},
        "model.rotary_emb": INPUTS,
        **{f"model.altup_unembed_projections.{i}": "altup_out_proj" for i in range(7)},
        **OUTSIDE,
    },
    behind={**_PER_LAYER_BEHIND, "altup_in_proj": "altup_in_norm", "altup_out_proj": _OUT},
    prepares=_PREPARES,
)
