"""Inkling: biases by distance in place of positions, short convolutions, experts.

By the code of transformers, models/inkling; configs of its authors say what of this there is (vLLM).
"""

from __future__ import annotations

from workloads.blocks import (
    RMS_NORM,
    DistanceAttentionBlock,
    MlpBlock,
    MlpConvBlock,
    ResultConvBlock,
    ScaledMlpBlock,
    ScaledMoeBlock,
)
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import activation, decoder_of
from workloads.layer import Layer
from workloads.model import Model

WITH = {"use_sconv": True, "use_embed_norm": True, "use_global_scale": True, "q_bias": False, "o_bias": False}
NEAR, FULL = "hybrid_sliding", "hybrid"


def _inkling(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    for name, there in WITH.items():
        if config.flag(name, there) != there:
            raise config.wrong(name, f"{there}".lower())
    kernel = config.size("conv_kernel_size", "sconv_kernel_size", default=4)
    window = config.size("sliding_window_size", "sliding_window", default=512)
    attention = {
        NEAR: _attention(config, "swa_", 16, kernel, window),
        FULL: _attention(config, "", 8, kernel, None),
    }
    listed = config.indices("local_layer_ids", count)
    near = set(listed) if listed is not None else {i for i in range(count) if (i + 1) % 6}
    default = [NEAR if i in near else FULL for i in range(count)]
    kinds = config.per_layer("layer_types", count, (NEAR, FULL)) or default
    first = config.count("dense_mlp_idx", 0)
    is_sparse = experts.sparse_layers(config, count) or [i >= first for i in range(count)]
    dense, sparse = _wide(config)
    behind = ResultConvBlock(hidden, kernel), MlpConvBlock(hidden, kernel)
    layers = [
        Layer((attention[kind], behind[0], sparse if here else dense, behind[1]))
        for kind, here in zip(kinds, is_sparse, strict=True)
    ]
    longest = ("max_position_embeddings", "model_max_length")
    return decoder_of(config, hidden, layers, longest=longest, positions=131_072, embedding_norm=RMS_NORM)


def _attention(
    config: Config, prefix: str, kv_heads: int, kernel: int, window: int | None
) -> DistanceAttentionBlock:
    heads = config.size(f"{prefix}num_attention_heads", default=64)
    kv_heads = config.size(f"{prefix}num_key_value_heads", default=kv_heads)
    config.divides(f"{prefix}num_attention_heads", heads, f"{prefix}num_key_value_heads", kv_heads)
    return DistanceAttentionBlock(
        heads,
        kv_heads,
        config.size(f"{prefix}head_dim", default=128),
        window=window,
        qk_norm=RMS_NORM,
        alibi=True,
        profiles=config.size("d_rel", default=16),
        extent=window or config.size("rel_extent", default=1024),
        kernel=kernel,
    )


def _wide(config: Config) -> tuple[ScaledMlpBlock, ScaledMoeBlock]:
    """The MLP of dense layers, and experts; authors may call the width of these `intermediate_size`."""
    act = activation(config, "hidden_act", default="silu")
    dense = config.optional_size("dense_intermediate_size")
    names = ("intermediate_size",) if dense else ("moe_intermediate_size",)
    width = config.size(*names, default=3072)
    count = config.size("n_routed_experts", "num_local_experts", default=256)
    chosen = config.size("num_experts_per_tok", default=6)
    config.within("num_experts_per_tok", chosen, "n_routed_experts", count)
    shared = config.size("n_shared_experts", default=2)
    sparse = ScaledMoeBlock(
        count, chosen, width, act, shared=MlpBlock(shared * width, act), shared_gates=shared
    )
    return ScaledMlpBlock(dense or config.size("intermediate_size", default=24576), act), sparse


FAMILY = dict.fromkeys(("inkling_text", "inkling_model"), _inkling)
