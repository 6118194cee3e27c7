"""Hybrids of attention and recurrent mixers: Nemotron-H, Qwen3.5."""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import (
    RMS_NORM,
    AttentionBlock,
    Block,
    DeltaBlock,
    GatedAttentionBlock,
    Mamba2Block,
    MlpBlock,
)
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import Model, decoder

STATE_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
NEMOTRON = {"M": "mamba", "*": "attention", "-": "mlp"}
QWEN = ("linear_attention", "full_attention")


def _nemotron_h(config: Config) -> Model:
    """One block per layer (arXiv:2504.03624), in the order of `hybrid_override_pattern`; no positions."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    pattern = config.text("hybrid_override_pattern", default="")
    if len(pattern) != count or set(pattern) - set(NEMOTRON):
        raise config.wrong("hybrid_override_pattern", f"one of {', '.join(NEMOTRON)} per layer, {count}")
    blocks: dict[str, Block] = {
        "M": _nemotron_mamba(config),
        "*": attention(config, hidden, rotary=False),
        "-": MlpBlock(
            config.size("intermediate_size"),
            config.text("mlp_hidden_act", default="relu2"),
            gated=False,
            bias=config.flag("mlp_bias", False),
        ),
    }
    return decoder(
        "nemotron_h",
        hidden,
        config.size("vocab_size"),
        tuple(Layer((blocks[letter],)) for letter in pattern),
        config.size("max_position_embeddings", default=4096),
        tied=config.flag("tie_word_embeddings", False),
    )


def _nemotron_mamba(config: Config) -> Mamba2Block:
    heads, groups = config.size("mamba_num_heads", default=128), config.size("n_groups", default=8)
    config.divides("mamba_num_heads", heads, "n_groups", groups)
    return Mamba2Block(
        heads,
        config.size("mamba_head_dim", default=64),
        groups,
        config.size("ssm_state_size", default=128),
        config.size("conv_kernel", default=4),
        config.size("chunk_size", default=128),
        config.flag("use_conv_bias", True),
        config.flag("use_bias", False),
        state_format(config, "mamba_ssm_cache_dtype"),
    )


def _qwen3_5(config: Config) -> Model:
    """Three of four layers are gated delta nets, the fourth attention with a gate."""
    hidden = config.size("hidden_size")
    mlp = MlpBlock(config.size("intermediate_size"), config.text("hidden_act", default="silu"))
    layers = tuple(Layer((mixer, mlp)) for mixer in qwen_mixers(config, hidden, together=False))
    return decoder(
        "qwen3_5_text",
        hidden,
        config.size("vocab_size"),
        layers,
        config.size("max_position_embeddings", default=32768),
        tied=config.flag("tie_word_embeddings", False),
    )


def qwen_mixers(config: Config, hidden: int, together: bool) -> list[Block]:
    """The mixer of each layer: by `layer_types`, or every `full_attention_interval`-th is attention."""
    count = config.layers("num_hidden_layers")
    interval = config.size("full_attention_interval", default=4)
    default = [QWEN[(i + 1) % interval == 0] for i in range(count)]
    types = config.per_layer("layer_types", count, QWEN) or default
    value_heads = config.size("linear_num_value_heads", default=32)
    key_heads = config.size("linear_num_key_heads", default=16)
    config.divides("linear_num_value_heads", value_heads, "linear_num_key_heads", key_heads)
    delta = DeltaBlock(
        value_heads,
        key_heads,
        config.size("linear_key_head_dim", default=128),
        config.size("linear_value_head_dim", default=128),
        config.size("linear_conv_kernel_dim", default=4),
        together,
        state_format(config, "mamba_ssm_dtype") or "fp32",
    )
    gated = attention(config, hidden, rotary=True, kind=GatedAttentionBlock)
    rope = config.fields.get("rope_parameters")
    nested = Config(rope, f"{config.origin} (rope_parameters)") if isinstance(rope, dict) else config
    share = nested.fraction("partial_rotary_factor", config.fraction("partial_rotary_factor", 0.25))
    gated = replace(gated, rotary_dim=int(gated.head_dim * share), qk_norm=RMS_NORM)
    return [delta if kind == QWEN[0] else gated for kind in types]


def attention(
    config: Config, hidden: int, rotary: bool, kind: type[AttentionBlock] = AttentionBlock
) -> AttentionBlock:
    """The attention of a hybrid's layers: grouped heads of a width of their own."""
    heads = config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", default=heads)
    config.divides("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    head_dim = config.optional_size("head_dim", "attention_head_dim")
    if head_dim is None:
        config.divides("hidden_size", hidden, "num_attention_heads", heads)
        head_dim = hidden // heads
    bias = config.flag("attention_bias", False)
    return kind(heads, kv_heads, head_dim, head_dim if rotary else 0, qkv_bias=bias, out_bias=bias)


def state_format(config: Config, name: str) -> str | None:
    """The format of a recurrent state where the config names one."""
    given = config.text(name, default="")
    if given and given not in STATE_FORMATS:
        raise config.wrong(name, f"one of {', '.join(STATE_FORMATS)}")
    return STATE_FORMATS.get(given)


FAMILY = {"nemotron_h": _nemotron_h, "qwen3_5_text": _qwen3_5}
