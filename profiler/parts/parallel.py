"""Decoders with attention and MLP in parallel, and one residual after both."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, FACTORS, HEADS, MLP, Family, Gap, named
from profiler.parts.dense import LLAMA, PRODUCT, QKV, RESIDUALS, megatron
from profiler.parts.experts import SHARED_EXPERTS

BOTH_RESIDUALS = "layers.attention_residual + mlp_residual"
COHERE = replace(LLAMA, gaps=(PRODUCT, Gap("mlp", "", BOTH_RESIDUALS)), behind={"lm_head": FACTORS})
COHERE_MOE = replace(
    COHERE,
    modules=SHARED_EXPERTS.modules,
    gaps=(*COHERE.gaps[1:], *SHARED_EXPERTS.gaps[len(RESIDUALS) :]),
)
# Parts of heads are rotated: split before, joined after.
_PART_ROTATED = dict.fromkeys(("layers.attention.v_proj", "layers.attention.rope"), HEADS)
STABLELM = replace(COHERE, behind=_PART_ROTATED)
STABLELM_IN_TURN = replace(LLAMA, behind=_PART_ROTATED)
PHI = Family(
    "model.layers",
    {
        **named("self_attn", ATTENTION, *QKV, dense="o_proj"),
        **named("mlp", MLP, fc1="up_proj", activation_fn="act_mul", fc2="down_proj"),
        "input_layernorm": "layers.attention_norm",
    },
    (Gap("mlp", "", BOTH_RESIDUALS),),
    {"model.embed_tokens": "embedding", "model.final_layernorm": "final_norm", "lm_head": "lm_head"},
    behind=_PART_ROTATED,
)
NEOX = Family(
    "gpt_neox.layers",
    megatron("attention"),
    (Gap("mlp", "", BOTH_RESIDUALS),),
    {"gpt_neox.embed_in": "embedding", "gpt_neox.final_layer_norm": "final_norm", "lm_head": "lm_head"},
)
