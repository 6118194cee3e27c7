"""Decoders with attention in the model's own code, from the cache update to the output projection."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, HEADS, MLP, Family, Gap, named, norms, residuals
from profiler.parts.dense import GPT2, OPT, QKV, megatron
from profiler.parts.parallel import BOTH_RESIDUALS

BLOOM = Family(
    "transformer.h",
    megatron("self_attention", act="gelu_impl"),
    (
        Gap("self_attention.dense", "self_attention", "layers.attention_residual", inside=True),
        Gap("mlp.dense_4h_to_h", "mlp", "layers.mlp_residual", inside=True),
    ),
    {
        "transformer.word_embeddings": "embedding",
        "transformer.word_embeddings_layernorm": "embedding_norm",
        "transformer.ln_f": "final_norm",
        "lm_head": "lm_head",
    },
    attends_until="self_attention.dense",
)
MPT = Family(
    "transformer.blocks",
    {
        **named("attn", ATTENTION, Wqkv="qkv_proj", out_proj="o_proj"),
        **named("ffn", MLP, "up_proj", "down_proj", act="act_mul"),
        **norms("norm_1", "norm_2"),
    },
    (
        Gap("attn", "norm_2", "layers.attention_residual"),
        Gap("ffn.down_proj", "ffn", "layers.mlp_residual", inside=True),
    ),
    {"transformer.wte": "embedding", "transformer.norm_f": "final_norm", "lm_head": "lm_head"},
    attends_until="attn.out_proj",
)
GPTJ = Family(
    "transformer.h",
    {
        **named("attn", ATTENTION, *QKV, out_proj="o_proj"),
        **named("mlp", MLP, fc_in="up_proj", act="act_mul", fc_out="down_proj"),
        "ln_1": "layers.attention_norm",
    },
    (Gap("mlp", "", BOTH_RESIDUALS),),
    {"transformer.wte": "embedding", "transformer.ln_f": "final_norm", "lm_head": "lm_head"},
    attends_until="attn.out_proj",
    # Each layer copies the whole table of positions for itself.
    behind=dict.fromkeys(("layers.attention.v_proj", "layers.attention.rope"), HEADS),
)
GPT_NEO = replace(
    GPT2,
    modules={
        **{path: name for path, name in GPT2.modules.items() if not path.startswith("attn.")},
        **named("attn.attention", ATTENTION, *QKV, out_proj="o_proj"),
    },
    attends_until="attn.attention.out_proj",
    behind={"layers.attention.v_proj": HEADS},
)
XGLM = replace(
    OPT,
    layers="model.layers",
    outside={
        "model.embed_tokens": "embedding",
        "model.embed_positions": "position_embedding",
        "model.layer_norm": "final_norm",
        "lm_head": "lm_head",
    },
    attends_until="self_attn.out_proj",
    behind=dict.fromkeys(("layers.attention.q_proj", "layers.attention.v_proj"), HEADS),
)
FALCON = Family(
    "transformer.h",
    {**megatron("self_attention"), **norms("ln_attn", "ln_mlp")},
    (Gap("mlp", "", BOTH_RESIDUALS),),
    {"transformer.word_embeddings": "embedding", "transformer.ln_f": "final_norm", "lm_head": "lm_head"},
    attends_until="self_attention.dense",
    behind={"layers.attention.qkv_proj": HEADS},
)
FALCON_IN_TURN = replace(FALCON, gaps=residuals("self_attention", "post_attention_layernorm", "mlp"))
