"""Gemma 3n and Gemma 4: layers that borrow keys and values, and embeddings of their own in each layer.

The last `num_kv_shared_layers` attend to the keys and values of the last layer of their kind before them. In
prefill those layers need only positions whose results are read. All positions are counted, as vLLM runs them
by default (`kv_sharing_fast_prefill: bool = False` of CacheConfig in vllm/config/cache.py).
"""

from __future__ import annotations

from dataclasses import replace

from workloads import blocks
from workloads.blocks import RMS_NORM, Block, MlpBlock
from workloads.blocks.altup import CORRECTION
from workloads.config import Config
from workloads.families.common import activation, decoder_of, head_dim_of, kv_heads_of
from workloads.families.llama import WINDOW_TYPES
from workloads.layer import Layer
from workloads.model import Model

SLIDING, FULL = WINDOW_TYPES
VOCABULARY = 262_144


def _gemma3n(config: Config) -> Model:
    """Gemma 3n: AltUp's streams around each layer, LAuReL beside attention, MLPs of different widths."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    kinds = _kinds(config, count, 5)
    own = _own_layers(config, kinds, 15)
    attention = _attention(config, hidden, 512)
    widths = config.sizes("intermediate_size", count, 16_384)
    act = activation(config, "hidden_activation", default="gelu_tanh")
    shares = config.from_zero("activation_sparsity_pattern", count, below=1)
    cut = [share > 0 for share in shares] if shares else [count > 10 and i < 10 for i in range(count)]
    streams = config.size("altup_num_inputs", default=4)
    width = config.size("hidden_size_per_layer_input", default=256)
    laurel = blocks.LaurelBlock(config.size("laurel_rank", default=64))
    before, after = blocks.AltUpPrediction(streams), blocks.AltUpCorrection(streams)
    layers = []
    for i, kind in enumerate(kinds):
        mlp = (blocks.CutMlpBlock if cut[i] else MlpBlock)(widths[i], act)
        attends = _seen(attention, kind, borrows=i >= own)
        narrow = blocks.PerLayerBlock(width, act, streams - 1)
        parts = (before, attends, laurel, mlp, after, narrow)
        layers.append(Layer(parts, post_norms=True, borrows=CORRECTION))
    model = decoder_of(config, hidden, layers, vocabulary=262_400, positions=32_768, tied=True)
    per_layer = blocks.PerLayerTable(_per_layer_vocabulary(config), count, width)
    return _around(model, (per_layer, blocks.StreamsIn(streams - 1)), (blocks.StreamsOut(streams - 1),))


def _gemma4(config: Config) -> Model:
    """Gemma 4: wider heads and one projection for keys and values in layers that see everything."""
    if config.fields.get("use_bidirectional_attention") == "all":
        raise config.wrong(
            "use_bidirectional_attention", '"vision" or null: text without a mask is not known'
        )
    unified = config.kind == "gemma4_unified_text"
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    kinds = _kinds(config, count, 6)
    kinds[-1] = FULL
    own = _own_layers(config, kinds, 0)
    sliding = _attention(config, hidden, 1024 if unified else 512)
    full = _full(config, sliding, kinds)
    dense = MlpBlock(
        config.size("intermediate_size", default=9216),
        activation(config, "hidden_activation", default="gelu_tanh"),
    )
    wide = replace(dense, width=2 * dense.width) if config.flag("use_double_wide_mlp", False) else dense
    width = 0 if unified else config.count("hidden_size_per_layer_input", 256)
    narrow = (blocks.PerLayerBlock(width, dense.activation),) if width else ()
    layers = []
    for i, kind in enumerate(kinds):
        borrows = i >= own
        attends = _seen(sliding if kind == SLIDING else full, kind, borrows)
        mlp = _feed_forward(config, wide if borrows else dense)
        layers.append(Layer((attends, mlp, *narrow), post_norms=True))
    longest = VOCABULARY if unified else 131_072
    model = decoder_of(config, hidden, layers, vocabulary=VOCABULARY, positions=longest, tied=True)
    if not width:
        return model
    return _around(model, (blocks.PerLayerTable(_per_layer_vocabulary(config), count, width),), ())


def _around(model: Model, inputs: tuple[Block, ...], outputs: tuple[Block, ...]) -> Model:
    """The model with more blocks behind its embedding and before its final norm."""
    stack = model.stack
    more = replace(stack, inputs=(*stack.inputs, *inputs), outputs=(*outputs, *stack.outputs))
    return replace(model, stack=more)


def _per_layer_vocabulary(config: Config) -> int:
    return config.size("vocab_size_per_layer_input", default=VOCABULARY)


def _kinds(config: Config, count: int, period: int) -> list[str]:
    """What each layer sees: as `layer_types` says, or everything in each `period`-th."""
    default = [FULL if (i + 1) % period == 0 else SLIDING for i in range(count)]
    return list(config.per_layer("layer_types", count, WINDOW_TYPES) or default)


def _own_layers(config: Config, kinds: list[str], default: int) -> int:
    """How many layers make keys and values of their own; of each kind there must be one."""
    shared = config.count("num_kv_shared_layers", default)
    if shared >= len(kinds):  # those of a draft model, which reads another's keys
        raise config.wrong("num_kv_shared_layers", f"below num_hidden_layers, {len(kinds)}")
    own = len(kinds) - shared
    if set(kinds[:own]) != set(kinds):
        raise config.wrong(
            "num_kv_shared_layers", "before them a layer of each of layer_types that they have"
        )
    return own


def _attention(config: Config, hidden: int, window: int) -> blocks.GemmaAttentionBlock:
    """That of sliding windows."""
    heads = config.size("num_attention_heads", default=8)
    dim = head_dim_of(config, hidden, heads, 256)
    bias = config.flag("attention_bias", False)
    return blocks.GemmaAttentionBlock(
        heads,
        kv_heads_of(config, heads, 2 if config.kind == "gemma3n_text" else 4),
        dim,
        rotary_dim=dim,
        window=config.size("sliding_window", default=window),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=RMS_NORM,
    )


def _seen(attention: blocks.GemmaAttentionBlock, kind: str, borrows: bool) -> blocks.GemmaAttentionBlock:
    return replace(attention, window=attention.window if kind == SLIDING else None, borrows=borrows)


def _full(
    config: Config, sliding: blocks.GemmaAttentionBlock, kinds: list[str]
) -> blocks.GemmaAttentionBlock:
    """That of Gemma 4's other layers, in the fields of published configs or of those saved since 5.20."""
    alike = config.flag("attention_k_eq_v", False)
    dim = config.size("global_head_dim", default=512)
    kv_heads = config.optional_size("num_global_key_value_heads") if alike else None
    listed = config.nested("per_layer_config")
    if listed.fields:  # by number of layer, all full ones alike
        full = {str(i) for i, kind in enumerate(kinds) if kind == FULL}
        number = next((n for n in listed.fields if (n.lstrip("0") or "0") in full), None)
        if number is None:
            raise config.wrong("per_layer_config", "fields by number of layer, one of them of a full one")
        named = listed.nested(number)
        dim = named.size("head_dim", default=sliding.head_dim)
        kv_heads = named.optional_size("num_key_value_heads")
    kv_heads = kv_heads or sliding.kv_heads
    config.divides("num_attention_heads", sliding.heads, "num_global_key_value_heads", kv_heads)
    stated = config.fields.get("rope_parameters") is not None
    rope = config.nested("rope_parameters").nested(FULL)
    rotates = int(dim * rope.fraction("partial_rotary_factor", 1.0 if stated else 0.25))
    return replace(sliding, head_dim=dim, kv_heads=kv_heads, rotary_dim=rotates, one_projection=alike)


def _feed_forward(config: Config, dense: MlpBlock) -> Block:
    if not config.flag("enable_moe_block", False):
        return dense
    count, chosen = config.size("num_experts"), config.size("top_k_experts")
    config.within("top_k_experts", chosen, "num_experts", count)
    width = config.size("moe_intermediate_size")
    # A learned factor per expert, as many parameters as a bias of the router.
    return blocks.GemmaMoeBlock(count, chosen, width, dense.activation, router_bias=True, shared=dense)


FAMILY = {
    "gemma3n_text": _gemma3n,
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _gemma4),
}
