"""Decoders whose attention and MLP read the same input side by side: GPT-J, GPT-NeoX, Phi, Falcon."""

from __future__ import annotations

from workloads.blocks import AttentionBlock, MlpBlock
from workloads.config import Config
from workloads.families.common import LAYER_NORM, activation, rotated
from workloads.layer import Layer
from workloads.model import Model, decoder


def _gptj(config: Config) -> Model:
    hidden = config.size("n_embd", "hidden_size")
    heads = config.size("n_head", "num_attention_heads")
    config.divides("n_embd", hidden, "n_head", heads)
    width = config.size("n_inner", default=4 * hidden)
    act = activation(config, "activation_function", default="gelu_tanh")
    rotary = config.size("rotary_dim", default=64)
    config.within("rotary_dim", rotary, "n_embd / n_head =", hidden // heads)
    attention = AttentionBlock(heads, heads, hidden // heads, rotary_dim=rotary)
    mlp = MlpBlock(width, act, gated=False, bias=True)
    return decoder(
        "gptj",
        hidden,
        config.size("vocab_size"),
        (Layer((attention, mlp), LAYER_NORM, parallel=True, shared_norm=True),)
        * config.layers("n_layer", "num_hidden_layers"),
        config.size("n_positions", "max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings", False),
        norm=LAYER_NORM,
        head_bias=True,
    )


def _gpt_neox(config: Config) -> Model:
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    config.divides("hidden_size", hidden, "num_attention_heads", heads)
    dim, bias = hidden // heads, config.flag("attention_bias", True)
    attention = AttentionBlock(
        heads,
        heads,
        dim,
        rotary_dim=rotated(config, dim, 0.25),
        qkv_bias=bias,
        out_bias=bias,
        fused_qkv=True,
    )
    act = activation(config, "hidden_act", default="gelu")
    mlp = MlpBlock(config.size("intermediate_size"), act, gated=False, bias=True)
    layer = Layer((attention, mlp), LAYER_NORM, parallel=config.flag("use_parallel_residual", True))
    return decoder(
        "gpt_neox",
        hidden,
        config.size("vocab_size"),
        (layer,) * config.layers("num_hidden_layers"),
        config.size("max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings", False),
        norm=LAYER_NORM,
    )


def _phi(config: Config) -> Model:
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", default=heads)
    config.divides("hidden_size", hidden, "num_attention_heads", heads)
    config.divides("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    dim = hidden // heads
    normed = config.flag("qk_layernorm", False)
    attention = AttentionBlock(
        heads,
        kv_heads,
        dim,
        rotary_dim=rotated(config, dim, 0.5),
        qkv_bias=True,
        out_bias=True,
        qk_norm=LAYER_NORM if normed else None,
    )
    act = activation(config, "hidden_act", default="gelu_tanh")
    mlp = MlpBlock(config.size("intermediate_size"), act, gated=False, bias=True)
    return decoder(
        "phi",
        hidden,
        config.size("vocab_size"),
        (Layer((attention, mlp), LAYER_NORM, parallel=True, shared_norm=True),)
        * config.layers("num_hidden_layers"),
        config.size("max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings", False),
        norm=LAYER_NORM,
        head_bias=True,
    )


def _falcon(config: Config) -> Model:
    """Falcon: one KV head (7B), several (`new_decoder_architecture`), or plain attention (RW).

    Configs name sizes by newer or older words (`n_head`, `n_head_kv`).
    """
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads", "n_head")
    config.divides("hidden_size", hidden, "num_attention_heads", heads)
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
    layer = Layer((attention, mlp), LAYER_NORM, parallel=parallel, shared_norm=parallel and norms == 1)
    return decoder(
        "falcon",
        hidden,
        config.size("vocab_size"),
        (layer,) * config.layers("num_hidden_layers", "n_layer"),
        config.size("max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings", True),
        norm=LAYER_NORM,
    )


FAMILY = {"gptj": _gptj, "gpt_neox": _gpt_neox, "phi": _phi, "falcon": _falcon}
