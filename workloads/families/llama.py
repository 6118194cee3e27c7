"""Llama and the decoders that vary its block, dense or with experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specfiles.frozen import dataclass
from workloads.blocks import RMS_NORM, AttentionBlock, Block, MlpBlock, NormShape
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import LAYER_NORM, activation, head_dim_of, rotated
from workloads.layer import Layer
from workloads.model import Model, decoder


@dataclass(frozen=True)
class Quirks:
    """In what a family differs from Llama where its config does not say so."""

    bias: bool = False  # default of attention_bias
    qkv_bias: bool = False  # whatever attention_bias says
    out_bias: bool = True  # the last projection follows attention_bias too
    qk_norm: bool = False
    qk_norm_needs_flag: bool = False  # only where use_qk_norm is true
    qk_norm_whole: bool = False  # over all heads at once
    fused_qkv: bool = False  # one matrix in the checkpoint
    fused_gate_up: bool = False
    norm: NormShape = RMS_NORM
    post_norms: bool = False
    tied: bool = False  # default of tie_word_embeddings
    head_dim: int | None = None  # default where it is not hidden / heads
    rotary: float = 1.0  # share of a head that rotates, by default
    activation: str = "silu"
    kv_heads: int | None = None  # default where it is not the attention heads
    windowed: bool = True  # the family's attention knows sliding windows
    window: int | None = None  # default of sliding_window where the field is absent
    every_nth_full: int | None = None  # pattern of full attention between sliding-window layers
    window_needs_flag: bool = False  # sliding_window counts only where use_sliding_window is true
    first_full: int = 0  # default of max_window_layers: layers before the windows begin
    softcap: bool = False
    sinks: bool = False
    feed_forward: Callable[[Config, int], list[Block]] | None = None  # None: one gated MLP per layer


_GEMMA = Quirks(tied=True, kv_heads=4, head_dim=256, activation="gelu_tanh", post_norms=True, window=4096)
_GLM = Quirks(
    bias=True, out_bias=False, fused_gate_up=True, kv_heads=2, head_dim=128, rotary=0.5, windowed=False
)
_FLAGGED = Quirks(kv_heads=32, window_needs_flag=True, window=4096, first_full=28)
QUIRKS = {
    "llama": Quirks(windowed=False),
    "mistral": Quirks(kv_heads=8, window=4096),
    "qwen2": replace(_FLAGGED, qkv_bias=True),
    "qwen3": replace(_FLAGGED, qk_norm=True, head_dim=128),
    "phi3": Quirks(fused_qkv=True, fused_gate_up=True),
    "gemma": Quirks(tied=True, kv_heads=16, head_dim=256, windowed=False, activation="gelu_tanh"),
    "gemma2": replace(_GEMMA, every_nth_full=2, softcap=True),
    "gemma3_text": replace(_GEMMA, every_nth_full=6, qk_norm=True),
    "glm": _GLM,
    "glm4": replace(_GLM, post_norms=True),
    "mixtral": Quirks(kv_heads=8, feed_forward=experts.every_layer),
    "phimoe": Quirks(kv_heads=8, norm=LAYER_NORM, feed_forward=experts.phimoe),
    "olmoe": Quirks(qk_norm=True, qk_norm_whole=True, windowed=False, feed_forward=experts.olmoe),
    "qwen2_moe": Quirks(
        qkv_bias=True, out_bias=False, kv_heads=16, window_needs_flag=True, feed_forward=experts.qwen
    ),
    "qwen3_moe": Quirks(qk_norm=True, kv_heads=4, window_needs_flag=True, feed_forward=experts.qwen),
    "glm4_moe": Quirks(
        out_bias=False,
        qk_norm=True,
        qk_norm_needs_flag=True,
        kv_heads=8,
        rotary=0.5,
        windowed=False,
        feed_forward=experts.deepseek,
    ),
    "minimax_m2": Quirks(
        qk_norm=True,
        qk_norm_whole=True,
        out_bias=False,
        kv_heads=8,
        head_dim=128,
        windowed=False,
        feed_forward=experts.minimax,
    ),
    "gpt_oss": Quirks(
        bias=True,
        sinks=True,
        kv_heads=8,
        head_dim=64,
        window=128,
        every_nth_full=2,
        feed_forward=experts.gpt_oss,
    ),
}
GEMMA3_PERIOD = 6
WINDOW_TYPES = ("sliding_attention", "full_attention")


def _model(config: Config, quirks: Quirks, kind: str) -> Model:
    hidden = config.size("hidden_size")
    count = config.layers("num_hidden_layers")
    attention = _attention(config, quirks, hidden)
    blocks = _feed_forward(config, quirks, count)
    layers = tuple(
        Layer((replace(attention, window=window), block), quirks.norm, post_norms=quirks.post_norms)
        for window, block in zip(_windows(config, quirks, count), blocks, strict=True)
    )
    return decoder(
        kind,
        hidden,
        config.size("vocab_size"),
        layers,
        config.size("max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings", quirks.tied),
        norm=quirks.norm,
        head_bias=config.flag("lm_head_bias", False),
    )


def _attention(config: Config, quirks: Quirks, hidden: int) -> AttentionBlock:
    heads = config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", default=quirks.kv_heads or heads)
    config.divides("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    head_dim = head_dim_of(config, hidden, heads, quirks.head_dim)
    bias = config.flag("attention_bias", quirks.bias)
    normed = quirks.qk_norm and (not quirks.qk_norm_needs_flag or config.flag("use_qk_norm", False))
    return AttentionBlock(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=rotated(config, head_dim, quirks.rotary),
        qkv_bias=bias or (quirks.qkv_bias and config.flag("qkv_bias", True)),
        out_bias=bias and quirks.out_bias,
        qk_norm=RMS_NORM if normed else None,
        qk_norm_whole=quirks.qk_norm_whole,
        fused_qkv=quirks.fused_qkv,
        softcap=quirks.softcap and config.fields.get("attn_logit_softcapping", 50.0) is not None,
        sinks=quirks.sinks,
    )


def _feed_forward(config: Config, quirks: Quirks, count: int) -> list[Block]:
    if quirks.feed_forward is not None:
        return quirks.feed_forward(config, count)
    dense = MlpBlock(
        config.size("intermediate_size"),
        activation(config, "hidden_activation", "hidden_act", default=quirks.activation),
        bias=config.flag("mlp_bias", False),
        fused_gate_up=quirks.fused_gate_up,
    )
    return [dense] * count


def _windows(config: Config, quirks: Quirks, layers: int) -> list[int | None]:
    """The sliding window of each layer, None for full attention.

    An absent field means what it means in transformers: saved configs leave defaults out.
    """
    given = "sliding_window" in config.fields
    window = config.optional_size("sliding_window") if given else quirks.window
    listed = config.per_layer("layer_types", layers, WINDOW_TYPES)
    asked = quirks.windowed and (not quirks.window_needs_flag or config.flag("use_sliding_window", False))
    if window is None or not asked:
        return [None] * layers
    if listed is not None:
        return [window if entry == "sliding_attention" else None for entry in listed]
    if quirks.every_nth_full is not None:
        period = quirks.every_nth_full
        if period == GEMMA3_PERIOD:  # whose config may name another
            period = config.size("sliding_window_pattern", default=period)
        return [None if (i + 1) % period == 0 else window for i in range(layers)]
    first = config.count("max_window_layers", quirks.first_full) if quirks.window_needs_flag else 0
    return [None if i < first else window for i in range(layers)]


def _reader(kind: str, quirks: Quirks) -> Callable[[Config], Model]:
    return lambda config: _model(config, quirks, kind)


FAMILY = {kind: _reader(kind, quirks) for kind, quirks in QUIRKS.items()}
