"""Decoders whose attention and MLP read the same input side by side: GPT-J, GPT-NeoX, Phi, Falcon."""

from __future__ import annotations

from workloads.blocks import AttentionBlock, MlpBlock
from workloads.config import Config
from workloads.families.common import (
    LAYER_NORM,
    activation,
    decoder_of,
    kv_heads_of,
    plain_mlp,
    rotated,
    width_and_heads,
)
from workloads.layer import Layer
from workloads.model import Model


def _gptj(config: Config) -> Model:
    hidden, heads = width_and_heads(config, ("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    width = config.size("n_inner", default=4 * hidden)
    act = activation(config, "activation_function", default="gelu_tanh")
    rotary = config.size("rotary_dim", default=64)
    config.within("rotary_dim", rotary, "n_embd / n_head =", hidden // heads)
    attention = AttentionBlock(heads, heads, hidden // heads, rotary_dim=rotary)
    mlp = MlpBlock(width, act, gated=False, bias=True)
    layer = Layer((attention, mlp), LAYER_NORM, parallel=True, shared_norm=True)
    layers = (layer,) * config.layers("n_layer", "num_hidden_layers")
    longest = ("n_positions", "max_position_embeddings")
    return decoder_of(config, hidden, layers, longest=longest, head_bias=True)


def _gpt_neox(config: Config) -> Model:
    hidden, heads = width_and_heads(config)
    dim, bias = hidden // heads, config.flag("attention_bias", True)
    attention = AttentionBlock(
        heads, heads, dim, rotary_dim=rotated(config, dim, 0.25), qkv_bias=bias, out_bias=bias, fused_qkv=True
    )
    parallel = config.flag("use_parallel_residual", True)
    layer = Layer((attention, plain_mlp(config, "gelu")), LAYER_NORM, parallel=parallel)
    layers = (layer,) * config.layers("num_hidden_layers")
    return decoder_of(config, hidden, layers)


def _phi(config: Config) -> Model:
    hidden, heads = width_and_heads(config)
    dim = hidden // heads
    normed = config.flag("qk_layernorm", False)
    attention = AttentionBlock(
        heads,
        kv_heads_of(config, heads),
        dim,
        rotary_dim=rotated(config, dim, 0.5),
        qkv_bias=True,
        out_bias=True,
        qk_norm=LAYER_NORM if normed else None,
    )
    mlp = plain_mlp(config, "gelu_tanh")
    layer = Layer((attention, mlp), LAYER_NORM, parallel=True, shared_norm=True)
    layers = (layer,) * config.layers("num_hidden_layers")
    return decoder_of(config, hidden, layers, head_bias=True)


def _falcon(config: Config) -> Model:
    """Falcon: one KV head (7B), several (`new_decoder_architecture`), or plain attention (RW).

    Configs name sizes by newer or older words (`n_head`, `n_head_kv`).
    """
    hidden, heads = width_and_heads(config, heads=("num_attention_heads", "n_head"))
    new = config.flag("new_decoder_architecture", False)
    several = new or not config.flag("multi_query", True)
    kv_heads = config.size("num_kv_heads", "n_head_kv", default=heads) if several else 1
    config.divides("num_attention_heads", heads, "num_kv_heads", kv_heads)
    alibi, bias = config.flag("alibi", False), config.flag("bias", False)
    attention = AttentionBlock(
        heads,
        kv_heads,
        hidden // heads,
        rotary_dim=0 if alibi else hidden // heads,
        qkv_bias=bias,
        out_bias=bias,
        fused_qkv=True,
        alibi=alibi,
    )
    width = config.size("ffn_hidden_size", default=4 * hidden)
    mlp = MlpBlock(width, activation(config, "activation", default="gelu"), gated=False, bias=bias)
    norms = config.size("num_ln_in_parallel_attn", default=2 if new else 1)
    parallel = new or config.flag("parallel_attn", True)
    layer = Layer((attention, mlp), LAYER_NORM, parallel=parallel, shared_norm=parallel and norms != 2)
    layers = (layer,) * config.layers("num_hidden_layers", "n_layer")
    return decoder_of(config, hidden, layers, tied=True)


FAMILY = {"gptj": _gptj, "gpt_neox": _gpt_neox, "phi": _phi, "falcon": _falcon}
