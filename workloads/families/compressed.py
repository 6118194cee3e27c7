"""DeepSeek-V4: windows, compressed attention, several residual streams, experts in every layer.

In the first layers a table says which experts a token goes to (transformers, models/deepseek_v4).
"""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import Block, CompressedAttentionBlock, EntryIndex, MlpBlock
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import activation, decoder_of, with_streams
from workloads.layer import Layer
from workloads.model import Model

WINDOW, PICKED, ALL = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
KINDS = (WINDOW, PICKED, ALL)
MLP_KINDS = ("hash_moe", "moe")
STRIDES = {PICKED: 4, ALL: 128}  # defaults, by which authors say which layer is of what kind


def _deepseek_v4(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    mixers, (hashed, chosen) = _mixers(config), _experts(config)
    words = config.per_layer("mlp_layer_types", count, MLP_KINDS)
    if words is None:
        first = config.count("num_hash_layers", 3)
        words = [MLP_KINDS[i >= first] for i in range(count)]
    wide = [hashed if word == MLP_KINDS[0] else chosen for word in words]
    pairs = zip((mixers[kind] for kind in _kinds(config, count)), wide, strict=True)
    layers = [Layer(pair) for pair in pairs]
    return with_streams(config, decoder_of(config, hidden, layers, positions=1_048_576))


def _mixers(config: Config) -> dict[str, Block]:
    heads, width = config.size("num_attention_heads"), config.size("head_dim", default=512)
    groups = config.size("o_groups", default=8)
    config.divides("num_attention_heads", heads, "o_groups", groups)
    share = config.fraction("partial_rotary_factor", 64 / 512)
    rope = config.size("qk_rope_head_dim", default=int(width * share))
    config.within("qk_rope_head_dim", rope, "head_dim", width)
    near = CompressedAttentionBlock(
        heads,
        width,
        rope,
        q_latent=config.size("q_lora_rank", default=1024),
        window=config.size("sliding_window", default=128),
        groups=groups,
        group_latent=config.size("o_lora_rank", default=1024),
    )
    rates = config.nested("compress_rates")
    strides = {kind: rates.size(kind, default=rate) for kind, rate in STRIDES.items()}
    for kind, name in ((PICKED, "compress_rate_csa"), (ALL, "compress_rate_hca")):
        strides[kind] = config.size(name, default=strides[kind])
    index = EntryIndex(
        config.size("index_n_heads", default=64),
        config.size("index_head_dim", default=128),
        config.size("index_topk", default=512),
    )
    return {
        WINDOW: near,
        PICKED: replace(near, stride=strides[PICKED], series=2, index=index),
        ALL: replace(near, stride=strides[ALL]),
    }


def _kinds(config: Config, layers: int) -> list[str]:
    """As transformers writes them, or by `compress_ratios`, where layers of multi-token prediction follow."""
    if listed := config.per_layer("layer_types", layers, KINDS):
        return listed
    ratios = config.fields.get("compress_ratios")
    if ratios is None:
        return [ALL if i < 2 or i % 2 == 0 else PICKED for i in range(layers)]
    named = {0: WINDOW, **{rate: kind for kind, rate in STRIDES.items()}}
    allowed = list(named)  # an entry may be of a type that has no hash
    if not isinstance(ratios, list) or len(ratios) < layers or any(r not in allowed for r in ratios[:layers]):
        raise config.wrong("compress_ratios", f"0, 4 or 128 for each of {layers} layers")
    return [named[ratio] for ratio in ratios[:layers]]


def _experts(config: Config) -> tuple[Block, Block]:
    """Those that a table names, and those that a router chooses."""
    width = config.size("moe_intermediate_size", default=2048)
    act = activation(config, "hidden_act", default="silu")
    bias = config.flag("mlp_bias", False)
    chosen = experts.routed(
        config,
        "n_routed_experts",
        "num_local_experts",
        width=width,
        default=256,
        top_k=6,
        shared=MlpBlock(config.size("n_shared_experts", default=1) * width, act, bias=bias),
    )
    return replace(chosen, listed=True), chosen


FAMILY = {"deepseek_v4": _deepseek_v4}
