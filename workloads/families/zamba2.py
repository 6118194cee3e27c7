"""Zamba2 (arXiv:2411.15242): Mamba-2 layers, some behind a transformer that they share in turn."""

from __future__ import annotations

from workloads.blocks import SHARED, Mamba2Block, SharedAttentionBlock, SharedMlpBlock
from workloads.config import Config
from workloads.families.common import activation, decoder_of, kv_heads_of
from workloads.layer import Layer
from workloads.model import Model

MAMBA, HYBRID = ("mamba", "linear_attention"), "hybrid"


def _zamba2(config: Config) -> Model:
    """Of `num_mem_blocks` transformers each hybrid layer runs the next one, with adapters of its own."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    types = config.per_layer("layers_block_type", count, (*MAMBA, HYBRID))
    if types is None:
        types = config.per_layer("layer_types", count, (*MAMBA, HYBRID))
    if types is None:
        raise config.wrong("layers_block_type", f"{MAMBA[0]} or {HYBRID} per layer, {count}")
    mamba = _mixer(config, hidden)
    blocks = _attention(config, hidden), _mlp(config, hidden)
    shared, layers = config.size("num_mem_blocks", default=1), list[Layer]()
    for kind in types:
        before = sum(len(layer.blocks) > 1 for layer in layers)
        borrows = SHARED if before >= shared else ()
        layers.append(Layer((*blocks, mamba), borrows=borrows) if kind == HYBRID else Layer((mamba,)))
    return decoder_of(config, hidden, layers, positions=4096, tied=True)


def _attention(config: Config, hidden: int) -> SharedAttentionBlock:
    heads = config.size("num_attention_heads", default=32)
    kv_heads = kv_heads_of(config, heads)
    config.divides("2 x hidden_size =", 2 * hidden, "num_attention_heads", heads)
    adapted = config.flag("use_shared_attention_adapter", False)
    if adapted and kv_heads != heads:
        raise config.wrong("num_key_value_heads", f"num_attention_heads, {heads}, as adapters have")
    if config.size("attention_hidden_size", default=2 * hidden) != 2 * hidden:
        raise config.wrong("attention_hidden_size", f"2 x hidden_size, {2 * hidden}")
    head_dim = config.size("attention_head_dim", default=2 * hidden // heads)
    return SharedAttentionBlock(
        heads,
        kv_heads,
        head_dim,
        head_dim if config.flag("use_mem_rope", False) else 0,
        adapter_rank=config.size("adapter_rank", default=128) if adapted else 0,
    )


def _mlp(config: Config, hidden: int) -> SharedMlpBlock:
    return SharedMlpBlock(
        config.size("intermediate_size", default=4 * hidden),
        activation(config, "hidden_act", default="gelu"),
        bias=config.flag("add_bias_linear", False),
        fused_gate_up=True,
        adapter_rank=config.size("adapter_rank", default=128),
    )


def _mixer(config: Config, hidden: int) -> Mamba2Block:
    heads, groups = config.size("n_mamba_heads", default=8), config.size("mamba_ngroups", default=1)
    inner = hidden * config.size("mamba_expand", default=2)
    config.divides("mamba_expand x hidden_size =", inner, "n_mamba_heads", heads)
    config.divides("n_mamba_heads", heads, "mamba_ngroups", groups)
    return Mamba2Block(
        heads,
        inner // heads,
        groups,
        config.size("mamba_d_state", default=64),
        config.size("mamba_d_conv", default=4),
        config.size("chunk_size", default=256),
        conv_bias=True,
        proj_bias=config.flag("add_bias_linear", False),
    )


FAMILY = {"zamba2": _zamba2}
