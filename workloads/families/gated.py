"""Decoders whose attention has gates of its own: Step 3.5 and 3.7, AFMoE (Trinity), Laguna, Beam, Muse.

By the code of transformers: models/step3p7, afmoe, laguna, beam, muse_glimmer and muse_spark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workloads.blocks import RMS_NORM, UNSCALED, Block, MlpBlock, OutputGateBlock
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import activation, decoder_of, gated_mlp, kv_heads_of, rotated
from workloads.families.llama import WINDOW_TYPES
from workloads.layer import Layer
from workloads.model import Model

NEAR = WINDOW_TYPES[0]


def _step(config: Config) -> Model:
    """Step 3.5: layers with a window have more heads; a gate per head; dense layers first."""
    count = config.layers("num_hidden_layers")
    drafts = config.count("num_nextn_predict_layers", config.count("num_mtp_layers", 0))
    config = _without_drafts(config, count, drafts)
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    inside = config.nested("attention_other_setting")
    near = config.size(
        "num_sliding_attention_heads", default=inside.size("num_attention_heads", default=heads)
    )
    kv_heads = config.size("num_key_value_heads", "num_attention_groups", default=8)
    for name, of in (("num_attention_heads", heads), ("heads of layers with a window", near)):
        config.divides(name, of, "num_key_value_heads", kv_heads)
    width = config.size("head_dim", default=128)
    kinds = config.per_layer("layer_types", count, WINDOW_TYPES) or ["full_attention"] * count
    window = config.optional_size("sliding_window")
    bias = config.flag("attention_bias", False)
    shares = _rotated_shares(config, kinds)
    attention: list[Block] = [
        OutputGateBlock(
            near if kind == NEAR else heads,
            kv_heads,
            width,
            int(width * share),
            window if kind == NEAR else None,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=RMS_NORM,
            by_head=True,
        )
        for kind, share in zip(kinds, shares, strict=True)
    ]
    # Activations are SiLU whatever the config says.
    mlp_bias = config.flag("mlp_bias", False)
    shared = MlpBlock(
        config.size("share_expert_dim", "share_expert_dims", default=1280), "silu", bias=mlp_bias
    )
    sparse = experts.routed(
        Config({**config.fields, "hidden_act": "silu"}, config.origin),
        "n_routed_experts",
        "moe_num_experts",
        "num_experts",
        width=config.size("moe_intermediate_size", default=1280),
        default=288,
        top_k=config.size("moe_top_k", default=8),
        shared=shared,
    )
    dense = MlpBlock(config.size("intermediate_size", default=11264), "silu", bias=mlp_bias)
    wide = [sparse if here else dense for here in _step_sparse(config, count)]
    return _decoder(config, hidden, attention, wide)


def _without_drafts(config: Config, layers: int, drafts: int) -> Config:
    """Lists may go on with the layers of multi-token prediction."""
    fields = {
        name: value[:layers] if isinstance(value, list) and len(value) == layers + drafts else value
        for name, value in config.fields.items()
    }
    return Config(fields, config.origin)


def _rotated_shares(config: Config, kinds: Sequence[str]) -> list[float]:
    """Of a head's elements, by layer: authors list them, transformers keeps them by the kind of layer."""
    name = "partial_rotary_factors"
    if listed := config.fields.get(name):
        if not isinstance(listed, list) or len(listed) != len(kinds):
            raise config.wrong(name, f"one number per layer, {len(kinds)}")
        return [Config({name: share}, config.origin).fraction(name, 1.0) for share in listed]
    rope = config.nested("rope_parameters")
    return [rope.nested(kind).fraction("partial_rotary_factor", 1.0) for kind in kinds]


def _step_sparse(config: Config, layers: int) -> list[bool]:
    if (stated := experts.sparse_layers(config, layers)) is not None:
        return stated
    listed = config.fields.get("moe_layers_enum")
    if listed is None:
        return [i >= config.count("first_k_dense_replace", 3) for i in range(layers)]
    entries = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(entries, list) or not all(
        str(entry).strip().isdecimal() for entry in entries if entry != ""
    ):
        raise config.wrong("moe_layers_enum", "numbers of layers between commas")
    chosen = {int(entry) for entry in entries if entry != ""}
    return [i in chosen for i in range(layers)]


def _afmoe(config: Config) -> Model:
    """AFMoE: a gate per element, norms on both sides; layers that see all do not rotate."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads, width = config.size("num_attention_heads"), config.size("head_dim", default=128)
    every = config.size("global_attn_every_n_layers", default=4)
    default = [WINDOW_TYPES[(i + 1) % every == 0] for i in range(count)]
    kinds = config.per_layer("layer_types", count, WINDOW_TYPES) or default
    window, bias = config.size("sliding_window", default=1024), config.flag("attention_bias", False)
    attention: list[Block] = [
        OutputGateBlock(
            heads,
            kv_heads_of(config, heads),
            width,
            width if kind == NEAR else 0,
            window if kind == NEAR else None,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=RMS_NORM,
        )
        for kind in kinds
    ]
    first, act = config.count("num_dense_layers", 1), activation(config, "hidden_act", default="silu")
    inner = config.size("moe_intermediate_size", default=1408)
    shared = config.size("num_shared_experts", default=2) * inner
    sparse = experts.routed(
        config,
        "num_experts",
        width=inner,
        default=64,
        top_k=6,
        shared=MlpBlock(shared, act),
        router_bias=True,
    )
    wide = [gated_mlp(config) if i < first else sparse for i in range(count)]
    return _decoder(config, hidden, attention, wide, post_norms=True)


def _laguna(config: Config) -> Model:
    """Laguna: heads by layer, a gate per head or element, experts behind the first layer."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads, width = config.size("num_attention_heads"), config.size("head_dim", default=128)
    kv_heads = kv_heads_of(config, heads, 8)
    kinds = config.per_layer("layer_types", count, WINDOW_TYPES) or ["full_attention"] * count
    window, bias = config.size("sliding_window", default=512), config.flag("attention_bias", False)
    gating = config.fields.get("gating", True)
    if gating not in (True, "per-head", "per-element"):
        raise config.wrong("gating", "true, 'per-head' or 'per-element'")
    rope = config.nested("rope_parameters")
    by_layer = config.sizes("num_attention_heads_per_layer", count, heads)
    attention: list[Block] = []
    for kind, number in zip(kinds, by_layer, strict=True):
        config.divides("num_attention_heads_per_layer", number, "num_key_value_heads", kv_heads)
        inside = rope.nested(kind) if kind in rope.fields else Config({}, config.origin)
        attention.append(
            OutputGateBlock(
                number,
                kv_heads,
                width,
                rotated(inside, width, 1.0 if kind == NEAR or rope.fields else 0.5),
                window if kind == NEAR else None,
                qkv_bias=bias,
                out_bias=bias,
                qk_norm=RMS_NORM,
                by_head=gating != "per-element",
            )
        )
    act = activation(config, "hidden_act", default="silu")
    sparse = experts.routed(
        config,
        "num_experts",
        width=config.size("moe_intermediate_size", default=512),
        default=256,
        top_k=8,
        shared=MlpBlock(config.size("shared_expert_intermediate_size", default=512), act),
        router_bias=True,
    )
    is_sparse = experts.sparse_layers(config, count) or [i > 0 for i in range(count)]
    wide = [sparse if here else gated_mlp(config) for here in is_sparse]
    return _decoder(config, hidden, attention, wide)


def _beam(config: Config) -> Model:
    """Beam: a gate per element with a bias per head, norms on both sides, dense layers first.

    Layers whose kind has a null in rope_parameters do not rotate, by default those that see all.
    """
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads, width = config.size("num_attention_heads"), config.size("head_dim", default=128)
    default = [WINDOW_TYPES[(i + 1) % 6 == 0 or i == count - 1] for i in range(count)]
    kinds = config.per_layer("layer_types", count, WINDOW_TYPES) or default
    window, bias = config.size("sliding_window", default=512), config.flag("attention_bias", False)
    rope = config.nested("rope_parameters").fields or {WINDOW_TYPES[1]: None}
    attention: list[Block] = [
        OutputGateBlock(
            heads,
            kv_heads_of(config, heads, 8),
            width,
            width if rope.get(kind, True) is not None else 0,
            window if kind == NEAR else None,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=RMS_NORM,
            gate_bias=True,
        )
        for kind in kinds
    ]
    inner = config.size("moe_intermediate_size", default=2560)
    sparse = experts.routed(config, "num_experts", width=inner, default=256, top_k=8)
    is_sparse = experts.sparse_layers(config, count) or [i >= 3 for i in range(count)]
    wide = [sparse if here else gated_mlp(config) for here in is_sparse]
    return _decoder(config, hidden, attention, wide, post_norms=True)


def _muse(config: Config) -> Model:
    """Muse: norms on both sides, a normalised embedding; layers with a theta of 0 do not rotate.

    Muse Spark normalises the result of each head, and has experts in a latent and gates on residuals.
    """
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads, spark = config.size("num_attention_heads"), config.kind == "muse_spark_text"
    width = config.size("head_dim", default=64 if spark else 128)
    full = [(count - 1 - i) % 4 == 0 for i in range(count)]
    listed = config.per_layer("layer_types", count, WINDOW_TYPES)
    kinds = listed or [WINDOW_TYPES[here] for here in full]
    window, bias = config.size("sliding_window", default=2048), config.flag("attention_bias", False)
    bases = config.from_zero("layer_rope_theta", count)
    rotates = [base > 0 for base in bases] if bases is not None else [not here for here in full]
    attention: list[Block] = [
        OutputGateBlock(
            heads,
            kv_heads_of(config, heads, 16 if spark else 2),
            width,
            width if turns else 0,
            window if kind == NEAR else None,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=UNSCALED,
            head_norm=spark,
        )
        for kind, turns in zip(kinds, rotates, strict=True)
    ]
    act = activation(config, "hidden_act" if spark else "hidden_activation", default="silu")
    wide: list[Block] = [MlpBlock(config.size("intermediate_size"), act)] * count
    if spark:
        inner = config.size("moe_intermediate_size", default=4096)
        routed = experts.routed(config, "num_local_experts", width=inner, default=256, top_k=8)
        latent = config.size("moe_hidden_size", default=4096)
        sparse = replace(routed, latent=latent, latent_in_norm=True, expert_norm=True)
        is_sparse = experts.sparse_layers(config, count) or [True] * count
        wide = [sparse if here else block for here, block in zip(is_sparse, wide, strict=True)]
    layers = [
        Layer(
            pair,
            post_norms=True,
            unscaled_post_norm="attention" if spark else "",
            residual_vectors=int(spark),
        )
        for pair in zip(attention, wide, strict=True)
    ]
    return decoder_of(config, hidden, layers, positions=131_072, embedding_norm=UNSCALED)


def _decoder(
    config: Config, hidden: int, attention: Sequence[Block], wide: Sequence[Block], post_norms: bool = False
) -> Model:
    pairs = zip(attention, wide, strict=True)
    layers = [Layer(pair, post_norms=post_norms) for pair in pairs]
    return decoder_of(config, hidden, layers, positions=131_072)


FAMILY = {
    "step3p5": _step,
    "afmoe": _afmoe,
    "laguna": _laguna,
    "beam": _beam,
    **dict.fromkeys(("muse_glimmer_text", "muse_spark_text"), _muse),
}
