"""Hybrids of attention and recurrent mixers: Nemotron-H, Jamba, Bamba, Granite 4, Falcon-H1, Qwen 3.5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from workloads.blocks import (
    RMS_NORM,
    AttentionBlock,
    Block,
    DeltaBlock,
    GatedAttentionBlock,
    Mamba2Block,
    MlpBlock,
    MoeBlock,
)
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import (
    activation,
    decoder_of,
    gated_mlp,
    head_dim_of,
    kv_heads_of,
    rotated,
)
from workloads.families.recurrent import check_convolution, mamba_block
from workloads.layer import Layer
from workloads.model import Model

STATE_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
NEMOTRON = {"M": "mamba", "*": "attention", "-": "mlp", "E": "experts"}
NEMOTRON_WORDS = {
    **dict.fromkeys(("mamba", "linear_attention"), "M"),
    **dict.fromkeys(("attention", "full_attention"), "*"),
    "mlp": "-",
    "moe": "E",
}
QWEN = ("linear_attention", "full_attention")
GRANITE_MAMBA, GRANITE_ATTENTION = ("mamba", "linear_attention"), ("attention", "full_attention")


def _nemotron_h(config: Config) -> Model:
    """One block per layer (arXiv:2504.03624), no positions."""
    hidden, pattern = config.size("hidden_size"), _nemotron_pattern(config)
    makers: dict[str, Callable[[], Block]] = {
        "M": lambda: _nemotron_mamba(config),
        "*": lambda: attention(config, hidden, rotary=False),
        "-": lambda: _nemotron_mlp(config, config.size("intermediate_size")),
        "E": lambda: _nemotron_experts(config),
    }
    blocks = {letter: makers[letter]() for letter in sorted(set(pattern))}
    return decoder_of(config, hidden, [Layer((blocks[letter],)) for letter in pattern], positions=4096)


def _nemotron_pattern(config: Config) -> str:
    """A letter per layer, as published; transformers saves a list of words."""
    listed = config.fields.get("layers_block_type")
    count = len(listed) if listed and isinstance(listed, list) else config.layers("num_hidden_layers")
    if words := config.per_layer("layers_block_type", count, tuple(NEMOTRON_WORDS)):
        return "".join(NEMOTRON_WORDS[word] for word in words)
    pattern = config.text("hybrid_override_pattern", default="")
    if len(pattern) != count or set(pattern) - set(NEMOTRON):
        raise config.wrong("hybrid_override_pattern", f"one of {', '.join(NEMOTRON)} per layer, {count}")
    return pattern


def _nemotron_mlp(config: Config, width: int) -> MlpBlock:
    act = activation(config, "mlp_hidden_act", default="relu2")
    return MlpBlock(width, act, gated=False, bias=config.flag("mlp_bias", False))


def _nemotron_experts(config: Config) -> MoeBlock:
    mlp = _nemotron_mlp(config, config.size("moe_intermediate_size"))
    shared = config.count("n_shared_experts", 1)
    return MoeBlock(
        config.size("n_routed_experts"),
        config.size("num_experts_per_tok"),
        mlp.width,
        mlp.activation,
        gated=False,
        bias=mlp.bias,
        latent=config.optional_size("moe_latent_size") or 0,
        shared=_nemotron_mlp(config, config.size("moe_shared_expert_intermediate_size")) if shared else None,
    )


def _jamba(config: Config) -> Model:
    """Attention every eighth layer, experts every second (arXiv:2403.19887); no positions."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    mamba = mamba_block(config, hidden, "mamba_")
    attends = attention(config, hidden, rotary=False)
    dense = gated_mlp(config)
    alone = config.size("num_experts", "num_local_experts", default=16) == 1  # nothing to route
    sparse = dense if alone else experts.routed(config, "num_experts", "num_local_experts", default=16)
    at, every = config.count("attn_layer_offset", 4), config.size("attn_layer_period", default=8)
    first, period = config.count("expert_layer_offset", 1), config.size("expert_layer_period", default=2)
    for name, offset, length in (("attn", at, every), ("expert", first, period)):
        config.within(f"{name}_layer_offset", offset, f"{name}_layer_period - 1 =", length - 1)
    layers = tuple(
        Layer((attends if i % every == at else mamba, sparse if i % period == first else dense))
        for i in range(count)
    )
    return decoder_of(config, hidden, layers, positions=262144)


def _bamba(config: Config) -> Model:
    """Mamba-2 but for the layers of `attn_layer_indices`, whose heads rotate by half."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    mamba = _bamba_mixer(config, hidden)
    attends = attention(config, hidden, rotary=True)
    attends = replace(attends, rotary_dim=attends.head_dim // 2)
    mlp = gated_mlp(config, config.flag("mlp_bias", False))
    chosen = config.indices("attn_layer_indices", count) or []
    layers = [Layer((attends if i in chosen else mamba, mlp)) for i in range(count)]
    return decoder_of(config, hidden, layers, positions=262144)


def _bamba_mixer(config: Config, hidden: int) -> Mamba2Block:
    heads, groups = config.size("mamba_n_heads", default=128), config.size("mamba_n_groups", default=1)
    stated = config.optional_size("mamba_d_ssm")  # of Falcon-H1
    inner = stated or hidden * config.size("mamba_expand", default=2)
    name = "mamba_d_ssm" if stated else "mamba_expand x hidden_size ="
    config.divides(name, inner, "mamba_n_heads", heads)
    config.divides("mamba_n_heads", heads, "mamba_n_groups", groups)
    return Mamba2Block(
        heads,
        inner // heads,
        groups,
        config.size("mamba_d_state", default=256),
        config.size("mamba_d_conv", default=4),
        config.size("mamba_chunk_size", default=256),
        config.flag("mamba_conv_bias", True),
        config.flag("mamba_proj_bias", False),
    )


def _falcon_h1(config: Config) -> Model:
    """Mamba-2 and attention side by side in every layer (arXiv:2507.22448), then an MLP.

    Constant factors on activations are not counted: they can be multiplied into weights.
    """
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    if config.flag("projectors_bias", False) != config.flag("mamba_proj_bias", False):
        raise config.wrong("projectors_bias", "the same as mamba_proj_bias")
    mamba = _bamba_mixer(Config({"mamba_d_ssm": 1024, **config.fields}, config.origin), hidden)
    mamba = replace(mamba, norm=config.flag("mamba_rms_norm", False))
    mlp = gated_mlp(config, config.flag("mlp_bias", False))
    layer = Layer((mamba, attention(config, hidden, rotary=True), mlp), mixers=2)
    return decoder_of(config, hidden, (layer,) * count, positions=8192)


def _granite(config: Config) -> Model:
    """Granite 4: Bamba's mixer or attention, mostly without positions, before Granite's experts."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    mamba = _bamba_mixer(config, hidden)
    rotates = config.text("position_embedding_type", default="nope") == "rope"
    attends = attention(config, hidden, rotary=rotates)
    name = "layer_types" if config.fields.get("layer_types") is not None else "layers_block_type"
    types = config.per_layer(name, count, (*GRANITE_MAMBA, *GRANITE_ATTENTION)) or ["mamba"] * count
    mixers = [mamba if kind in GRANITE_MAMBA else attends for kind in types]
    wide = experts.granite(config, count, shared_width=1024)
    return decoder_of(config, hidden, tuple(map(Layer, zip(mixers, wide, strict=True))))


def _qwen(config: Config) -> Model:
    """Three of four layers are gated delta nets, the fourth attention with a gate; dense, or with experts."""
    hidden = config.size("hidden_size")
    wide = gated_mlp(config) if config.kind == "qwen3_5_text" else qwen_experts(config)
    layers = [Layer((mixer, wide)) for mixer in qwen_mixers(config, hidden)]
    return decoder_of(config, hidden, layers, positions=32768)


def qwen_experts(config: Config) -> MoeBlock:
    """Experts in every layer, of which one is shared and gated."""
    only, step = config.fields.get("mlp_only_layers") or [], config.size("decoder_sparse_step", default=1)
    if only or step != 1:
        raise config.wrong("mlp_only_layers" if only else "decoder_sparse_step", "experts in every layer")
    act = activation(config, "hidden_act", default="silu")
    return experts.routed(
        config,
        "num_experts",
        "num_local_experts",
        width=config.size("moe_intermediate_size", default=512),
        default=512,
        top_k=10,
        shared=MlpBlock(config.size("shared_expert_intermediate_size", default=512), act),
        shared_gates=1,
    )


def _olmo(config: Config) -> Model:
    """OLMo Hybrid: gated delta nets with norms before blocks, OLMo's attention and its norms behind them."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads = config.size("num_attention_heads")
    key_heads = config.size("linear_num_key_heads", default=heads)
    value_heads = config.size("linear_num_value_heads", default=heads)
    config.divides("linear_num_value_heads", value_heads, "linear_num_key_heads", key_heads)
    key_dim = config.size("linear_key_head_dim", default=3 * hidden // (4 * key_heads))
    delta = DeltaBlock(
        value_heads,
        key_heads,
        key_dim,
        config.size("linear_value_head_dim", default=2 * key_dim),
        config.size("linear_conv_kernel_dim", default=4),
        apart=True,
    )
    given = {**config.fields, **config.nested("rope_parameters").fields}
    rotary = given.get("rope_theta", "default") is not None  # null: no positions
    attends = replace(attention(config, hidden, rotary=rotary), qk_norm=RMS_NORM, qk_norm_whole="heads")
    mlp = gated_mlp(config)
    made = {QWEN[0]: Layer((delta, mlp)), QWEN[1]: Layer((attends, mlp), input_norms=False, post_norms=True)}
    default = [QWEN[i % 4 == 3 or i == count - 1 < 3] for i in range(count)]
    kinds = config.per_layer("layer_types", count, QWEN) or default
    return decoder_of(config, hidden, [made[kind] for kind in kinds], positions=65536)


def _nemotron_mamba(config: Config) -> Mamba2Block:
    check_convolution(config, "mamba_hidden_act")
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


def qwen_mixers(config: Config, hidden: int) -> list[Block]:
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
        config.kind == "qwen3_next",
        state_format(config, "mamba_ssm_dtype") or "fp32",
    )
    gated = attention(config, hidden, rotary=True, kind=GatedAttentionBlock)
    gated = replace(gated, rotary_dim=rotated(config, gated.head_dim, 0.25), qk_norm=RMS_NORM)
    return [delta if kind == QWEN[0] else gated for kind in types]


def attention(
    config: Config, hidden: int, rotary: bool, kind: type[AttentionBlock] = AttentionBlock
) -> AttentionBlock:
    """The attention of a hybrid's layers: grouped heads of a width of their own."""
    heads = config.size("num_attention_heads")
    kv_heads = kv_heads_of(config, heads)
    head_dim = head_dim_of(config, hidden, heads, config.optional_size("attention_head_dim"))
    bias = config.flag("attention_bias", False)
    return kind(heads, kv_heads, head_dim, head_dim if rotary else 0, qkv_bias=bias, out_bias=bias)


def state_format(config: Config, name: str) -> str | None:
    """The format of a recurrent state where the config names one."""
    given = config.text(name, default="")
    if given and given not in STATE_FORMATS:
        raise config.wrong(name, f"one of {', '.join(STATE_FORMATS)}")
    return STATE_FORMATS.get(given)


FAMILY = {
    "nemotron_h": _nemotron_h,
    "jamba": _jamba,
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "granitemoehybrid": _granite,
    "olmo_hybrid": _olmo,
    **dict.fromkeys(("qwen3_5_text", "qwen3_next", "qwen3_5_moe_text"), _qwen),
}
