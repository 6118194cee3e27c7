"""Decoders of attention and an MLP in sequence."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, FACTORS, HEADS, MLP, Family, Gap, named, norms, residuals
from profiler.ranks.share import MET

QKV = ("q_proj", "k_proj", "v_proj")
SELF_ATTENTION = named("self_attn", ATTENTION, *QKV, "o_proj")
QK_NORMS = {
    f"self_attn.{name}": f"layers.attention.{norm}"
    for norm, names in {
        "q_norm": ("q_norm", "q_layernorm", "query_layernorm"),
        "k_norm": ("k_norm", "k_layernorm", "key_layernorm"),
    }.items()
    for name in names
}
GATED_MLP = named("mlp", MLP, "gate_proj", "up_proj", "down_proj")
# Of a model that processes share (profiler/ranks/share.py).
SUMS = {f"self_attn.{MET}": "layers.attention_allreduce", f"mlp.{MET}": "layers.mlp_allreduce"}
MET_OUTSIDE = {f"model.{MET}": "embedding_allreduce", MET: "logits_allgather"}
GATED_ACTIVATION = {"mlp.act_fn": "layers.mlp.act_mul"}
PRODUCT = Gap("mlp.up_proj", "mlp.down_proj", "layers.mlp.act_mul")
OUTSIDE = {"model.embed_tokens": "embedding", "model.norm": "final_norm", "lm_head": "lm_head"}
NORMS = norms("input_layernorm", "post_attention_layernorm")
RESIDUALS = residuals("self_attn", "post_attention_layernorm", "mlp")
POST_NORMS = {
    "post_attention_layernorm": "layers.attention_post_norm",
    "post_feedforward_layernorm": "layers.mlp_post_norm",
}
SANDWICH_NORMS = {**norms("input_layernorm", "pre_feedforward_layernorm"), **POST_NORMS}
SANDWICH_RESIDUALS = residuals(
    "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)

FUSED_MLP = named("mlp", MLP, "gate_up_proj", "down_proj")
FUSED_PRODUCT = Gap("mlp.gate_up_proj", "mlp.down_proj", "layers.mlp.act_mul")

LLAMA = Family(
    "model.layers",
    {**SELF_ATTENTION, **QK_NORMS, **GATED_MLP, **GATED_ACTIVATION, **NORMS, **SUMS},
    (*RESIDUALS, PRODUCT),
    {**OUTSIDE, **MET_OUTSIDE},
)
WITHOUT_NORMS = {path: name for path, name in LLAMA.modules.items() if path not in NORMS}
WITHOUT_MLP = {path: name for path, name in LLAMA.modules.items() if not path.startswith("mlp.")}
GRANITE_3 = replace(LLAMA, behind={"lm_head": FACTORS})
HYPERCLOVA = replace(  # with norms behind the blocks, too
    GRANITE_3,
    modules={
        **LLAMA.modules,
        "post_norm1": "layers.attention_post_norm",
        "post_norm2": "layers.mlp_post_norm",
    },
    gaps=(*residuals("post_norm1", "post_attention_layernorm", "post_norm2"), PRODUCT),
)
BITNET = replace(  # with norms before the last product of each block
    LLAMA,
    modules={
        **LLAMA.modules,
        "self_attn.attn_sub_norm": "layers.attention.out_norm",
        "mlp.ffn_sub_norm": "layers.mlp.inner_norm",
    },
    gaps=(*RESIDUALS, replace(PRODUCT, before="mlp.ffn_sub_norm")),
)
VOXTRAL = replace(  # each layer makes a factor of its MLP's input from one vector
    LLAMA,
    modules={
        **LLAMA.modules,
        **named("ada_rms_norm", MLP, linear1="condition_down_proj", linear2="condition_up_proj"),
    },
    gaps=(
        *LLAMA.gaps,
        Gap("ada_rms_norm.linear1", "ada_rms_norm.linear2", "layers.mlp.condition_act"),
        Gap("ada_rms_norm", "mlp", "layers.mlp.condition_mul"),
    ),
)
UNGATED = replace(LLAMA, gaps=RESIDUALS)
COSMOS_3 = replace(
    UNGATED,
    modules={
        **WITHOUT_MLP,
        **named("mlp", MLP, fc1="up_proj", activation_fn="act_mul", fc2="down_proj"),
    },
)
# Its last norm stands before the layers, too, and norms of heads behind RoPE.
NANOCHAT = replace(COSMOS_3, early=("model.norm", "embedding_norm"))
APERTUS = replace(
    UNGATED,
    modules={**WITHOUT_NORMS, **norms("attention_layernorm", "feedforward_layernorm")},
    gaps=residuals("self_attn", "feedforward_layernorm", "mlp"),
)
DIFFERENTIAL = replace(  # attends to each half of the values by a call of its own
    LLAMA,
    modules={**LLAMA.modules, "self_attn.groupnorm": "layers.attention.difference_norm"},
    behind={
        "layers.attention.kv_append": HEADS,
        "layers.attention.core": "layers.attention.difference",
        "layers.attention.difference_norm": FACTORS,
    },
)
SCALED = replace(LLAMA, behind={"layers.attention.rope": HEADS})  # queries, by their positions
STARCODER2 = replace(
    UNGATED,
    modules={**WITHOUT_MLP, **named("mlp", MLP, c_fc="up_proj", act="act_mul", c_proj="down_proj")},
)
OLMO2 = replace(  # norms after the blocks only
    LLAMA,
    modules={**WITHOUT_NORMS, **POST_NORMS},
    gaps=(*residuals("post_attention_layernorm", "mlp", "post_feedforward_layernorm"), PRODUCT),
)
PHI3 = Family(
    "model.layers",
    {**named("self_attn", ATTENTION, "qkv_proj", "o_proj"), **FUSED_MLP, **NORMS},
    (*RESIDUALS, FUSED_PRODUCT),
    OUTSIDE,
)


def _product_behind_act(family: Family) -> Family:
    """A family whose activation is a module, before the product with the other half."""
    act = {"mlp.activation_fn": "layers.mlp.act_mul"}
    product = Gap("mlp.activation_fn", "mlp.down_proj", "layers.mlp.act_mul")
    return replace(family, modules={**family.modules, **act}, gaps=(*family.gaps[:2], product))


GLM = Family("model.layers", {**SELF_ATTENTION, **FUSED_MLP, **NORMS}, PHI3.gaps, OUTSIDE)
GLM4_POST_NORMS = {
    "post_self_attn_layernorm": "layers.attention_post_norm",
    "post_mlp_layernorm": "layers.mlp_post_norm",
}
GLM4 = Family(
    "model.layers",
    {**GLM.modules, **GLM4_POST_NORMS},
    (
        *residuals("post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        FUSED_PRODUCT,
    ),
    OUTSIDE,
)
GLM4V = _product_behind_act(GLM4)
PHI4 = _product_behind_act(PHI3)
GEMMA2 = Family(
    "model.layers",
    {**SELF_ATTENTION, **QK_NORMS, **GATED_MLP, **GATED_ACTIVATION, **SANDWICH_NORMS},
    (*SANDWICH_RESIDUALS, PRODUCT),
    OUTSIDE,
)
VAULTGEMMA = replace(GEMMA2, gaps=(*residuals("self_attn", "pre_feedforward_layernorm", "mlp"), PRODUCT))


def megatron(attention: str, act: str = "act") -> dict[str, str]:
    """The modules of layers with Megatron-LM's names (arXiv:1909.08053)."""
    products = named(attention, ATTENTION, query_key_value="qkv_proj", dense="o_proj")
    matrices = {"dense_h_to_4h": "up_proj", act: "act_mul", "dense_4h_to_h": "down_proj"}
    return {**products, **named("mlp", MLP, **matrices), **NORMS}


PERSIMMON = Family(
    "model.layers",
    {**megatron("self_attn"), **QK_NORMS},
    RESIDUALS,
    {"model.embed_tokens": "embedding", "model.final_layernorm": "final_norm", "lm_head": "lm_head"},
    behind={"layers.attention.rope": HEADS},  # parts of heads are rotated
)
GPT2 = Family(
    "transformer.h",
    {
        **named("attn", ATTENTION, c_attn="qkv_proj", c_proj="o_proj"),
        **named("mlp", MLP, c_fc="up_proj", act="act_mul", c_proj="down_proj"),
        **norms("ln_1", "ln_2"),
    },
    residuals("attn", "ln_2", "mlp"),
    {
        "transformer.wte": "embedding",
        "transformer.wpe": "position_embedding",
        "transformer.ln_f": "final_norm",
        "lm_head": "lm_head",
    },
    behind={"layers.attention.qkv_proj": HEADS},
)
OPT = Family(
    "model.decoder.layers",
    {
        **named("self_attn", ATTENTION, *QKV, out_proj="o_proj"),
        **norms("self_attn_layer_norm", "final_layer_norm"),
        "fc1": "layers.mlp.up_proj",
        "activation_fn": "layers.mlp.act_mul",
        "fc2": "layers.mlp.down_proj",
    },
    residuals("self_attn", "final_layer_norm", "fc2"),
    {
        "model.decoder.embed_tokens": "embedding",
        "model.decoder.embed_positions": "position_embedding",
        "model.decoder.final_layer_norm": "final_norm",
        "lm_head": "lm_head",
    },
)
