"""Llama and the decoders that vary its block: Mistral, Qwen 2 and 3, Phi 3, Gemma 1 to 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from workloads.blocks import RMS_NORM, AttentionBlock, MlpBlock
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import Model, decoder


@dataclass(frozen=True)
class Quirks:
    """In what a family differs from Llama where its config does not say so."""

    qkv_bias: bool = False
    qk_norm: bool = False
    fused: bool = False  # the checkpoint keeps QKV and gate-up as one matrix each
    post_norms: bool = False
    tied: bool = False  # default of tie_word_embeddings
    head_dim: int | None = None  # default where it is not hidden / heads
    activation: str = "silu"
    kv_heads: int | None = None  # default where it is not the attention heads
    windowed: bool = True  # the family's attention knows sliding windows
    window: int | None = None  # default of sliding_window where the field is absent
    every_nth_full: int | None = None  # pattern of full attention between sliding-window layers
    window_needs_flag: bool = False  # sliding_window counts only where use_sliding_window is true
    first_full: int = 0  # default of max_window_layers: layers before the windows begin


QUIRKS = {
    "llama": Quirks(windowed=False),
    "mistral": Quirks(kv_heads=8, window=4096),
    "qwen2": Quirks(qkv_bias=True, kv_heads=32, window_needs_flag=True, window=4096, first_full=28),
    "qwen3": Quirks(
        qk_norm=True, kv_heads=32, head_dim=128, window_needs_flag=True, window=4096, first_full=28
    ),
    "phi3": Quirks(fused=True),
    "gemma": Quirks(tied=True, kv_heads=16, head_dim=256, windowed=False, activation="gelu_tanh"),
    "gemma2": Quirks(
        tied=True,
        kv_heads=4,
        head_dim=256,
        activation="gelu_tanh",
        post_norms=True,
        window=4096,
        every_nth_full=2,
    ),
    "gemma3_text": Quirks(
        tied=True,
        kv_heads=4,
        head_dim=256,
        activation="gelu_tanh",
        post_norms=True,
        qk_norm=True,
        window=4096,
        every_nth_full=6,
    ),
}
GEMMA3_PERIOD = 6
WINDOW_TYPES = ("sliding_attention", "full_attention")


def _model(config: Config, quirks: Quirks, kind: str) -> Model:
    hidden = config.size("hidden_size")
    count = config.layers("num_hidden_layers")
    heads = config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", default=quirks.kv_heads or heads)
    config.divides("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    head_dim = config.optional_size("head_dim") or quirks.head_dim
    if head_dim is None:
        config.divides("hidden_size", hidden, "num_attention_heads", heads)
        head_dim = hidden // heads
    bias = config.flag("attention_bias", False)
    attention = AttentionBlock(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=int(head_dim * config.fraction("partial_rotary_factor", 1.0)),
        qkv_bias=bias or quirks.qkv_bias,
        out_bias=bias,
        qk_norm=RMS_NORM if quirks.qk_norm else None,
        fused_qkv=quirks.fused,
    )
    mlp = MlpBlock(
        config.size("intermediate_size"),
        activation=_activation(config.text("hidden_activation", "hidden_act", default=quirks.activation)),
        bias=config.flag("mlp_bias", False),
        fused_gate_up=quirks.fused,
    )
    windows = _windows(config, quirks, count)
    layers = tuple(
        Layer((replace(attention, window=window), mlp), post_norms=quirks.post_norms) for window in windows
    )
    return decoder(
        kind,
        hidden,
        config.size("vocab_size"),
        layers,
        config.size("max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings", quirks.tied),
    )


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


def _activation(name: str) -> str:
    return {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "swish": "silu"}.get(name, name)


def _reader(kind: str, quirks: Quirks) -> Callable[[Config], Model]:
    return lambda config: _model(config, quirks, kind)


FAMILY = {kind: _reader(kind, quirks) for kind, quirks in QUIRKS.items()}
