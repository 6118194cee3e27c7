"""GPT-2, GPT-3, StarCoder, GPT-Neo, OPT and XGLM: LayerNorm, biases, a table of positions, plain MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from workloads.blocks import AttentionBlock, NormShape
from workloads.config import Config
from workloads.families.common import LAYER_NORM, decoder_of, plain_mlp, width_and_heads
from workloads.layer import Layer
from workloads.model import Model

FUNCTION = ("activation_function",)


def _gpt(config: Config) -> Model:
    hidden, heads = width_and_heads(config, ("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    longest = ("n_positions", "max_position_embeddings")
    positions = config.size(*longest, default=1024)
    _decodes_alone(config)
    kv_heads = 1 if config.kind == "gpt_bigcode" and config.flag("multi_query", True) else heads
    layer = Layer(
        (
            AttentionBlock(heads, kv_heads, hidden // heads, qkv_bias=True, out_bias=True, fused_qkv=True),
            plain_mlp(config, "gelu_tanh", width=("n_inner",), named=FUNCTION, default=4 * hidden),
        ),
        LAYER_NORM,
    )
    return decoder_of(
        config,
        hidden,
        (layer,) * config.layers("n_layer", "num_hidden_layers"),
        longest=longest,
        positions=positions,
        tied=True,
        learned_positions=positions,
    )


def _gpt_neo(config: Config) -> Model:
    """Every other layer of the published ones sees a window; queries, keys and values have no biases."""
    hidden, heads = width_and_heads(config, heads=("num_heads", "num_attention_heads"))
    count = config.layers("num_layers", "num_hidden_layers")
    mlp = plain_mlp(config, "gelu_tanh", named=FUNCTION, default=4 * hidden)
    windows = {"global": None, "local": config.size("window_size", default=256)}
    layers = [
        Layer(
            (AttentionBlock(heads, heads, hidden // heads, window=windows[kind], out_bias=True), mlp),
            LAYER_NORM,
        )
        for kind in _spans(config, count)
    ]
    rows = config.size("max_position_embeddings", default=2048)
    return decoder_of(config, hidden, layers, tied=True, learned_positions=rows)


def _spans(config: Config, layers: int) -> list[str]:
    """Whether each layer is global or local, from [[kinds, how often in turn], ...]."""
    given: Any = config.fields.get("attention_types")
    if given is None:
        given = [[["global", "local"], 12]]
    kinds: list[str] = []
    try:
        for names, times in given:
            if not set(names) <= {"global", "local"} or not 0 < times <= layers:
                raise ValueError(names)
            kinds += list(names) * times
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != layers:
        raise config.wrong(
            "attention_types", f"pairs of a list of global and local and a count, {layers} in all"
        )
    return kinds


def _xglm(config: Config) -> Model:
    """Sinusoidal positions, of which the first two are reserved (XGLMSinusoidalPositionalEmbedding)."""
    hidden, heads = width_and_heads(
        config, ("d_model", "hidden_size"), ("attention_heads", "num_attention_heads")
    )
    _decodes_alone(config)
    attention = AttentionBlock(heads, heads, hidden // heads, qkv_bias=True, out_bias=True)
    mlp = plain_mlp(config, "gelu", width=("ffn_dim",), named=FUNCTION)
    layers = (Layer((attention, mlp), LAYER_NORM),) * config.layers("num_layers", "num_hidden_layers")
    rows = config.size("max_position_embeddings", default=2048) + 2
    return decoder_of(config, hidden, layers, tied=True, sinusoids=rows)


def _decodes_alone(config: Config) -> None:
    """Raise InputError for a decoder that attends to an encoder's positions, too."""
    if config.flag("add_cross_attention", False):
        raise config.wrong("add_cross_attention", "false: attention to an encoder is not known")


def _opt(config: Config) -> Model:
    hidden, heads = width_and_heads(config)
    if config.size("word_embed_proj_dim", default=hidden) != hidden:
        raise config.wrong(
            "word_embed_proj_dim", f"hidden_size, {hidden}: a projected embedding is not known"
        )
    if not config.flag("do_layer_norm_before", True):
        raise config.wrong("do_layer_norm_before", "true: norms behind the blocks are not known")
    positions = config.size("max_position_embeddings", default=2048)
    if config.flag("_remove_final_layer_norm", False):
        raise config.wrong("_remove_final_layer_norm", "false: a stack without its last norm is not known")
    bias, affine = config.flag("enable_bias", True), config.flag("layer_norm_elementwise_affine", True)
    attention = AttentionBlock(heads, heads, hidden // heads, qkv_bias=bias, out_bias=bias)
    mlp = replace(plain_mlp(config, "relu", width=("ffn_dim",), named=FUNCTION), bias=bias)
    norm = NormShape(center=True, scale=affine, bias=affine)
    layers = (Layer((attention, mlp), norm),) * config.layers("num_hidden_layers")
    rows = positions + 2  # the first two are reserved (OPTLearnedPositionalEmbedding)
    return decoder_of(config, hidden, layers, tied=True, learned_positions=rows)


FAMILY = {"gpt2": _gpt, "gpt_bigcode": _gpt, "gpt_neo": _gpt_neo, "opt": _opt, "xglm": _xglm}
