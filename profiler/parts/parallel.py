"""Decoders with attention and MLP in parallel, and one residual after both."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import FACTORS, HEADS, Family, Gap
from profiler.parts.dense import LLAMA, PRODUCT

BOTH_RESIDUALS = "layers.attention_residual + mlp_residual"
COHERE = replace(LLAMA, gaps=(PRODUCT, Gap("mlp", "", BOTH_RESIDUALS)), behind={"lm_head": FACTORS})
# Parts of heads are rotated: split before, joined after.
_PART_ROTATED = dict.fromkeys(("layers.attention.v_proj", "layers.attention.rope"), HEADS)
STABLELM = replace(COHERE, behind=_PART_ROTATED)
STABLELM_IN_TURN = replace(LLAMA, behind=_PART_ROTATED)
PHI = Family(
    "model.layers",
    {
        **{f"self_attn.{n}_proj": f"layers.attention.{n}_proj" for n in "qkv"},
        "self_attn.dense": "layers.attention.o_proj",
        "mlp.fc1": "layers.mlp.up_proj",
        "mlp.activation_fn": "layers.mlp.act_mul",
        "mlp.fc2": "layers.mlp.down_proj",
        "input_layernorm": "layers.attention_norm",
    },
    (Gap("mlp", "", BOTH_RESIDUALS),),
    {"model.embed_tokens": "embedding", "model.final_layernorm": "final_norm", "lm_head": "lm_head"},
    behind=_PART_ROTATED,
)
NEOX = Family(
    "gpt_neox.layers",
    {
        "attention.query_key_value": "layers.attention.qkv_proj",
        "attention.dense": "layers.attention.o_proj",
        "mlp.dense_h_to_4h": "layers.mlp.up_proj",
        "mlp.act": "layers.mlp.act_mul",
        "mlp.dense_4h_to_h": "layers.mlp.down_proj",
        "input_layernorm": "layers.attention_norm",
        "post_attention_layernorm": "layers.mlp_norm",
    },
    (Gap("mlp", "", BOTH_RESIDUALS),),
    {"gpt_neox.embed_in": "embedding", "gpt_neox.final_layer_norm": "final_norm", "lm_head": "lm_head"},
)
