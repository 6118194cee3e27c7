"""Encoders like BERT."""

from __future__ import annotations

from profiler.parts.base import ATTENTION, MLP, Family, Gap, named

BERT = Family(
    "encoder.layer",
    {
        **named("attention.self", ATTENTION, query="q_proj", key="k_proj", value="v_proj"),
        "attention.output.dense": "layers.attention.o_proj",
        "attention.output.LayerNorm": "layers.attention_stream_norm",
        "intermediate.dense": "layers.mlp.up_proj",
        "intermediate.intermediate_act_fn": "layers.mlp.act_mul",
        "output.dense": "layers.mlp.down_proj",
        "output.LayerNorm": "layers.mlp_stream_norm",
    },
    (
        Gap("attention.output.dense", "attention.output.LayerNorm", "layers.attention_residual"),
        Gap("output.dense", "output.LayerNorm", "layers.mlp_residual"),
    ),
    {
        "embeddings.word_embeddings": "embedding",
        "embeddings.token_type_embeddings": "type_embedding",
        "embeddings.position_embeddings": "position_embedding",
        "embeddings.LayerNorm": "embedding_norm",
        "pooler.dense": "pooler",
        "pooler.activation": "pooler_act",
    },
)
DISTILBERT = Family(
    "transformer.layer",
    {
        **named("attention", ATTENTION, **{f"{n}_lin": f"{n}_proj" for n in "qkv"}, out_lin="o_proj"),
        **named("ffn", MLP, lin1="up_proj", activation="act_mul", lin2="down_proj"),
        "sa_layer_norm": "layers.attention_stream_norm",
        "output_layer_norm": "layers.mlp_stream_norm",
    },
    (
        Gap("attention", "sa_layer_norm", "layers.attention_residual"),
        Gap("ffn", "output_layer_norm", "layers.mlp_residual"),
    ),
    {
        "embeddings.word_embeddings": "embedding",
        "embeddings.position_embeddings": "position_embedding",
        "embeddings.LayerNorm": "embedding_norm",
    },
)
