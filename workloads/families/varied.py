"""Decoders that say layer by layer what they are made of: Llama 4, DBRX, Nemotron NAS, MobileLLM, MiMo-V2."""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import AttentionBlock, Block, MlpBlock, MoeBlock, NormShape
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import (
    BARE_LAYER_NORM,
    activation,
    decoder_of,
    gated_mlp,
    head_dim_of,
    kv_heads_of,
    rotated,
    rotating,
    width_and_heads,
)
from workloads.families.llama import WINDOW_TYPES
from workloads.layer import Layer
from workloads.model import Model


def _llama4(config: Config) -> Model:
    """Llama 4: most layers attend within chunks, every fourth to all, unrotated; experts interleaved."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads = config.size("num_attention_heads")
    kv_heads = kv_heads_of(config, heads, 8)
    bias, dim = config.flag("attention_bias", False), head_dim_of(config, hidden, heads, 128)
    full = AttentionBlock(heads, kv_heads, dim, qkv_bias=bias, out_bias=bias)
    unscaled = NormShape(scale=False) if config.flag("use_qk_norm", True) else None
    chunk = config.size("attention_chunk_size", default=8192)
    local = replace(full, rotary_dim=dim, chunk=chunk, qk_norm=unscaled)
    rotates = rotating(config, count)
    moe = experts.routed(config, "num_local_experts", default=16, top_k=1, shared=gated_mlp(config))
    dense = MlpBlock(config.size("intermediate_size_mlp", default=16384), moe.activation)
    step = config.size("interleave_moe_layer_step", default=1)
    listed = config.indices("moe_layers", count)
    sparse = set(range(step - 1, count, step) if listed is None else listed)
    layers = [Layer((local if rotates[i] else full, moe if i in sparse else dense)) for i in range(count)]
    return decoder_of(config, hidden, layers, positions=131072)


def _dbrx(config: Config) -> Model:
    """DBRX: fine-grained experts, one matrix for QKV, LayerNorm without bias."""
    hidden, heads = width_and_heads(config, ("d_model", "hidden_size"), ("n_heads", "num_attention_heads"))
    kv_heads = config.nested("attn_config").size("kv_n_heads", default=1)
    config.divides("n_heads", heads, "kv_n_heads", kv_heads)
    attention = AttentionBlock(heads, kv_heads, hidden // heads, rotary_dim=hidden // heads, fused_qkv=True)
    inner = config.nested("ffn_config")
    number, top_k = inner.size("moe_num_experts", default=4), inner.size("moe_top_k", default=1)
    inner.within("moe_top_k", top_k, "moe_num_experts", number)
    act = activation(inner.nested("ffn_act_fn"), "name", default="silu")
    moe = MoeBlock(number, top_k, inner.size("ffn_hidden_size", default=3584), act)
    layers = (Layer((attention, moe), BARE_LAYER_NORM),) * config.layers("n_layers", "num_hidden_layers")
    longest = ("max_seq_len", "max_position_embeddings")
    return decoder_of(config, hidden, layers, longest=longest)


def _nemotron_nas(config: Config) -> Model:
    """Llama-Nemotron: a search chose each layer's KV heads and MLP width, and left some out (2411.19146)."""
    (hidden, heads), count = width_and_heads(config), config.layers("num_hidden_layers")
    bias = config.flag("attention_bias", False)

    def attention(shape: Config) -> list[Block]:
        if _left_out(shape):
            return []
        group = shape.size("n_heads_in_group")
        shape.divides("num_attention_heads", heads, "n_heads_in_group", group)
        dim, window = hidden // heads, shape.optional_size("window_length")
        block = AttentionBlock(heads, heads // group, dim, dim, window, qkv_bias=bias, out_bias=bias)
        return [block]

    def mlp(shape: Config) -> list[Block]:
        if _left_out(shape):
            return []
        width = _rounded(int(2 * shape.positive("ffn_mult", 1000) * hidden / 3))
        act = activation(config, "hidden_act", default="silu")
        return [MlpBlock(width, act, bias=config.flag("mlp_bias", False))]

    shapes = config.each_layer("block_configs", count)
    layers = [Layer((*attention(s.nested("attention")), *mlp(s.nested("ffn")))) for s in shapes]
    return decoder_of(config, hidden, layers)


def _left_out(shape: Config) -> bool:
    if shape.flag("replace_with_linear", False):
        raise shape.wrong("replace_with_linear", "false: blocks replaced by one matrix are not known")
    return shape.flag("no_op", False)


def _rounded(width: int) -> int:
    """Widths are multiples of 256, rounded up (`_ffn_mult_to_intermediate_size` of the model's code)."""
    return -(-width // 256) * 256


def _mobilellm(config: Config) -> Model:
    """MobileLLM: a thin, deep Llama; with `layer_sharing` each layer runs twice (arXiv:2402.14905, 2.2.3).

    Each run is counted as reading the weights; a cache that holds a whole layer would save the second time.
    """
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads = config.size("num_attention_heads")
    kv_heads, dim = kv_heads_of(config, heads), head_dim_of(config, hidden, heads)
    layer = Layer((AttentionBlock(heads, kv_heads, dim, dim), gated_mlp(config)))
    pair = (layer, replace(layer, repeats=True)) if config.flag("layer_sharing", False) else (layer,)
    shares = config.fields.get("share_embedding") is not None
    field = "share_embedding" if shares else "tie_word_embeddings"
    return decoder_of(config, hidden, pair * count, tied_by=field, tied=True)


def _mimo_v2(config: Config) -> Model:
    """MiMo-V2: values narrower than keys; windows with sinks and heads of their own; experts.

    Its authors' config says layer by layer 0 or 1 where transformers has words, and more by other names.
    """
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    heads = config.size("num_attention_heads")
    kv_heads = kv_heads_of(config, heads, 4)
    dim = head_dim_of(config, hidden, heads, 192)
    full = AttentionBlock(
        heads,
        kv_heads,
        dim,
        rotary_dim=rotated(config, dim, 0.334),
        qkv_bias=config.flag("attention_bias", False),
        values=config.size("v_head_dim", default=128),
    )
    inside = config.size("swa_num_key_value_heads", default=2 * kv_heads)
    near = config.size("swa_num_attention_heads", default=heads)
    config.divides("swa_num_attention_heads", near, "swa_num_key_value_heads", inside)
    before = config.optional_size("sliding_window_size")  # positions beside the query's own
    window = before + 1 if before else config.size("sliding_window", default=129)
    wide_inside = config.size("swa_head_dim", default=dim)
    sliding = replace(
        full,
        heads=near,
        kv_heads=inside,
        head_dim=wide_inside,
        rotary_dim=rotated(config, wide_inside, 0.334),
        values=config.size("swa_v_head_dim", default=full.values),
        window=window,
        sinks=config.flag("add_swa_attention_sink_bias", True),
    )
    marked = config.flags("hybrid_layer_pattern", count)
    if listed := config.per_layer("layer_types", count, WINDOW_TYPES):
        marked = [kind == WINDOW_TYPES[0] for kind in listed]
    in_window = marked or [i != 0 and (i + 1) % 6 != 0 for i in range(count)]
    routed = config.flags("moe_layer_freq", count)
    is_sparse = experts.sparse_layers(config, count) or routed or [i > 0 for i in range(count)]
    wide = config.size("moe_intermediate_size", default=2048)
    moe = experts.routed(config, "n_routed_experts", width=wide, default=256, top_k=8)
    dense = gated_mlp(config)
    layers = [
        Layer((sliding if near else full, moe if sparse else dense))
        for near, sparse in zip(in_window, is_sparse, strict=True)
    ]
    return decoder_of(config, hidden, layers, positions=131_072)


FAMILY = {
    "llama4_text": _llama4,
    "dbrx": _dbrx,
    "nemotron-nas": _nemotron_nas,
    "mobilellm": _mobilellm,
    "mimo_v2_flash": _mimo_v2,
    "mimo_v2": _mimo_v2,
}
