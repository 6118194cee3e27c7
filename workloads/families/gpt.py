"""GPT-2, GPT-3, StarCoder and OPT: LayerNorm, biases everywhere, a table of learned positions, plain MLP."""

from __future__ import annotations

from functools import partial

from workloads.blocks import AttentionBlock, MlpBlock
from workloads.config import Config
from workloads.families.common import LAYER_NORM, activation, decoder_of, width_and_heads
from workloads.layer import Layer
from workloads.model import Model, decoder


def _gpt(config: Config, kind: str) -> Model:
    hidden, heads = width_and_heads(config, ("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    positions = config.size("n_positions", "max_position_embeddings", default=1024)
    kv_heads = 1 if kind == "gpt_bigcode" and config.flag("multi_query", True) else heads
    layer = Layer(
        (
            AttentionBlock(heads, kv_heads, hidden // heads, qkv_bias=True, out_bias=True, fused_qkv=True),
            MlpBlock(config.size("n_inner", default=4 * hidden), "gelu_tanh", gated=False, bias=True),
        ),
        LAYER_NORM,
    )
    return decoder(
        kind,
        hidden,
        config.size("vocab_size"),
        (layer,) * config.layers("n_layer", "num_hidden_layers"),
        positions,
        tied=config.flag("tie_word_embeddings", True),
        norm=LAYER_NORM,
        learned_positions=positions,
    )


def _opt(config: Config) -> Model:
    hidden, heads = width_and_heads(config)
    if config.size("word_embed_proj_dim", default=hidden) != hidden:
        raise config.wrong(
            "word_embed_proj_dim", f"hidden_size, {hidden}: a projected embedding is not known"
        )
    if not config.flag("do_layer_norm_before", True):
        raise config.wrong("do_layer_norm_before", "true: norms behind the blocks are not known")
    positions = config.size("max_position_embeddings", default=2048)
    layer = Layer(
        (
            AttentionBlock(heads, heads, hidden // heads, qkv_bias=True, out_bias=True),
            MlpBlock(
                config.size("ffn_dim"),
                activation(config, "activation_function", default="relu"),
                gated=False,
                bias=True,
            ),
        ),
        LAYER_NORM,
    )
    layers = (layer,) * config.layers("num_hidden_layers")
    rows = positions + 2  # the first two are reserved (OPTLearnedPositionalEmbedding)
    return decoder_of(config, "opt", hidden, layers, tied=True, norm=LAYER_NORM, learned_positions=rows)


FAMILY = {**{kind: partial(_gpt, kind=kind) for kind in ("gpt2", "gpt_bigcode")}, "opt": _opt}
