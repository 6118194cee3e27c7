"""Llama and the decoders that vary its block, dense or with experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

from specfiles.frozen import dataclass
from workloads import blocks  # for kinds of attention that most models do not load
from workloads.blocks import RMS_NORM, AttentionBlock, Block, MlpBlock, NormShape
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import (
    LAYER_NORM,
    activation,
    decoder_of,
    head_dim_of,
    kv_heads_of,
    rotated,
    rotating,
)
from workloads.layer import Layer
from workloads.model import Model


@dataclass(frozen=True)
class Quirks:
    """In what a family differs from Llama where its config does not say so."""

    # Fields that give biases to queries, keys and values, to the way back and to the MLP; "" for none ever.
    biases: tuple[str, str, str] = ("attention_bias", "attention_bias", "mlp_bias")
    biased: tuple[str, ...] = ()  # those of these fields that are true by default
    qkv_bias: bool = False  # whatever attention_bias says
    qk_norm: NormShape | None = None
    qk_norm_flag: str = ""  # only where this field is true
    qk_normed: bool = False  # default of that field
    qk_norm_whole: Literal["", "heads", "weights"] = ""  # over all heads at once, or with weights for each
    fused_qkv: bool = False  # one matrix in the checkpoint
    fused_gate_up: bool = False
    norm: NormShape = RMS_NORM
    input_norms: bool = True
    inner_norms: bool = False  # also before the last matrix of attention and MLP
    embedding_norm: NormShape | None = None
    post_norms: bool | str = False  # or the field that may say that there are none
    parallel: bool | str = False  # attention and MLP read one normalised stream; the field that says so
    tied: bool = False  # default of tie_word_embeddings
    head_bias: str = "lm_head_bias"  # the field that says so
    head_dim: int | None = None  # default where it is not hidden / heads
    rotary: float = 1.0  # share of a head that rotates, by default
    # Layers without positions: "listed" in no_rope_layers, "full" attention, those with a "theta" of 0 in
    # layer_rope_theta, those with a "null" for their kind in rope_parameters.
    unrotated: str = ""
    activation: str = "silu"
    gated: bool = True
    kv_heads: int | None = None  # default where it is not the attention heads
    window: int | None = None  # default of sliding_window where the field is absent
    windowed: bool = False  # sliding_window counts where it is stated, though it has no default
    every_nth_full: int | None = None  # pattern of full attention between sliding-window layers
    full_leads: bool = False  # the full layer is the first of each period, not the last
    period: str = ""  # the field that may name another
    window_needs_flag: bool = False  # sliding_window counts only where use_sliding_window is true
    first_full: int = 0  # default of max_window_layers, layers before the windows begin; 0: no such field
    softcap: bool = False
    sinks: bool = False
    differential: bool = False  # half of the heads are taken off the other half
    feed_forward: Callable[[Config, int], list[Block]] | None = None  # None: one gated MLP per layer
    unsaid: tuple[tuple[str, int], ...] = ()  # defaults of fields that published configs leave out


PERIOD = "sliding_window_pattern"
_GEMMA = Quirks(tied=True, kv_heads=4, head_dim=256, activation="gelu_tanh", post_norms=True, window=4096)
_INWARDS = ("attention_bias", "", "mlp_bias")
_GLM = Quirks(
    biases=_INWARDS, biased=("attention_bias",), fused_gate_up=True, kv_heads=2, head_dim=128, rotary=0.5
)
_FLAGGED = Quirks(kv_heads=32, window_needs_flag=True, window=4096, first_full=28)
QUIRKS = {
    "llama": Quirks(),
    "mistral": Quirks(kv_heads=8, window=4096),
    "qwen2": replace(_FLAGGED, qkv_bias=True),
    "qwen3": replace(_FLAGGED, qk_norm=RMS_NORM, head_dim=128),
    "phi3": Quirks(windowed=True, fused_qkv=True, fused_gate_up=True),
    "gemma": Quirks(tied=True, kv_heads=16, head_dim=256, activation="gelu_tanh"),
    "gemma2": replace(_GEMMA, every_nth_full=2, softcap=True),
    "vaultgemma": replace(_GEMMA, post_norms=False, every_nth_full=2, softcap=True),
    "gemma3_text": replace(
        _GEMMA,
        every_nth_full=6,
        period=PERIOD,
        qk_norm=RMS_NORM,
        # inside google/gemma-3-4b-it and its like
        unsaid=(
            ("num_attention_heads", 8),
            ("vocab_size", 262_208),
            ("max_position_embeddings", 131_072),
        ),
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, post_norms=True),
    "mixtral": Quirks(windowed=True, kv_heads=8, feed_forward=experts.in_each("num_local_experts", 8)),
    "phimoe": Quirks(
        windowed=True, kv_heads=8, norm=LAYER_NORM, feed_forward=experts.in_each("num_local_experts", 16)
    ),
    "olmoe": Quirks(
        qk_norm=RMS_NORM, qk_norm_whole="heads", feed_forward=experts.in_each("num_experts", 64, 8)
    ),
    "qwen2_moe": Quirks(
        biases=_INWARDS,
        qkv_bias=True,
        kv_heads=16,
        window_needs_flag=True,
        window=4096,
        every_nth_full=2,
        feed_forward=experts.qwen,
    ),
    "qwen3_moe": Quirks(qk_norm=RMS_NORM, kv_heads=4, window_needs_flag=True, feed_forward=experts.qwen),
    "glm4_moe": Quirks(
        biases=_INWARDS,
        qk_norm=RMS_NORM,
        qk_norm_flag="use_qk_norm",
        kv_heads=8,
        rotary=0.5,
        feed_forward=experts.deepseek,
    ),
    "minimax_m2": Quirks(
        qk_norm=RMS_NORM,
        qk_norm_whole="heads",
        biases=_INWARDS,
        kv_heads=8,
        head_dim=128,
        feed_forward=experts.in_each("num_local_experts", 256, 8),
    ),
    "gpt_oss": Quirks(
        biased=("attention_bias",),
        sinks=True,
        kv_heads=8,
        head_dim=64,
        window=128,
        every_nth_full=2,
        feed_forward=experts.gpt_oss,
    ),
}
WINDOW_TYPES = ("sliding_attention", "full_attention")


def readers(quirks: Mapping[str, Quirks]) -> dict[str, Callable[[Config], Model]]:
    """Readers of the families that differ from Llama in these ways."""
    return {kind: partial(_model, quirks=differences) for kind, differences in quirks.items()}


def _model(config: Config, quirks: Quirks) -> Model:
    if config.fields.get("use_bidirectional_attention"):  # EmbeddingGemma
        raise config.wrong("use_bidirectional_attention", "false: this family without a mask is not known")
    config = Config(dict(quirks.unsaid) | dict(config.fields), config.origin)
    hidden = config.size("hidden_size")
    count = config.layers("num_hidden_layers")
    attention = _attention(config, quirks, hidden)
    wide = _feed_forward(config, quirks, count)
    windows = _windows(config, quirks, count)
    parallel = config.flag(quirks.parallel, False) if isinstance(quirks.parallel, str) else quirks.parallel
    post_norms = quirks.post_norms
    if isinstance(post_norms, str):
        post_norms = config.flag(post_norms, True)
    layers = [
        Layer(
            (replace(attention, window=window, rotary_dim=attention.rotary_dim if rotates else 0), block),
            quirks.norm,
            quirks.input_norms,
            post_norms,
            parallel=parallel,
            shared_norm=parallel,
        )
        for window, rotates, block in zip(windows, _rotates(config, quirks, windows), wide, strict=True)
    ]
    bias = config.flag(quirks.head_bias, False)
    return decoder_of(
        config, hidden, layers, tied=quirks.tied, head_bias=bias, embedding_norm=quirks.embedding_norm
    )


def _attention(config: Config, quirks: Quirks, hidden: int) -> AttentionBlock:
    heads = config.size("num_attention_heads")
    head_dim = head_dim_of(config, hidden, heads, quirks.head_dim)
    inwards, outwards, _ = _biases(config, quirks)
    normed = not quirks.qk_norm_flag or config.flag(quirks.qk_norm_flag, quirks.qk_normed)
    kv_heads = kv_heads_of(config, heads, quirks.kv_heads)
    if quirks.differential and kv_heads % 2:
        raise config.wrong("num_key_value_heads", "an even number, for heads are subtracted in pairs")
    kind = blocks.DifferentialAttentionBlock if quirks.differential else AttentionBlock
    return kind(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=rotated(config, head_dim, quirks.rotary),
        qkv_bias=inwards or (quirks.qkv_bias and config.flag("qkv_bias", True)),
        out_bias=outwards,
        qk_norm=quirks.qk_norm if normed else None,
        qk_norm_whole=quirks.qk_norm_whole,
        fused_qkv=quirks.fused_qkv,
        softcap=quirks.softcap and config.fields.get("attn_logit_softcapping", 50.0) is not None,
        sinks=quirks.sinks,
        out_norm=quirks.norm if quirks.inner_norms else None,
    )


def _biases(config: Config, quirks: Quirks) -> list[bool]:
    """Of queries, keys and values, of the way back, of the MLP."""
    return [name != "" and config.flag(name, name in quirks.biased) for name in quirks.biases]


def _rotates(config: Config, quirks: Quirks, windows: list[int | None]) -> list[bool]:
    """Whether a layer's queries and keys are rotated."""
    if quirks.unrotated == "listed":
        return rotating(config, len(windows))
    if quirks.unrotated == "full" and config.fields.get("sliding_window", quirks.window) is not None:
        return [window is not None for window in windows]
    if quirks.unrotated == "theta" and (bases := config.from_zero("layer_rope_theta", len(windows))):
        return [base > 0 for base in bases]
    if quirks.unrotated == "null":
        rope = config.nested("rope_parameters").fields
        return [rope.get(WINDOW_TYPES[window is None], True) is not None for window in windows]
    return [True] * len(windows)


def _feed_forward(config: Config, quirks: Quirks, count: int) -> list[Block]:
    if quirks.feed_forward is not None:
        return quirks.feed_forward(config, count)
    dense = MlpBlock(
        config.size("intermediate_size"),
        activation(config, "hidden_activation", "hidden_act", default=quirks.activation),
        gated=quirks.gated,
        bias=_biases(config, quirks)[2],
        fused_gate_up=quirks.fused_gate_up,
        inner_norm=quirks.norm if quirks.inner_norms else None,
    )
    return [dense] * count


def _windows(config: Config, quirks: Quirks, layers: int) -> list[int | None]:
    """The sliding window of each layer, None for full attention.

    An absent field means what it means in transformers: saved configs leave defaults out.
    """
    given = "sliding_window" in config.fields
    window = config.count("sliding_window", 0) or None if given else quirks.window
    listed = config.per_layer("layer_types", layers, WINDOW_TYPES)
    asked = quirks.windowed or quirks.window is not None
    if quirks.window_needs_flag:
        asked = config.flag("use_sliding_window", False)
    if window is None or not asked:
        return [None] * layers
    if listed is not None:
        return [window if entry == "sliding_attention" else None for entry in listed]
    if quirks.unrotated == "listed":
        return [None if rotates else window for rotates in rotating(config, layers)]
    if quirks.every_nth_full is not None:
        period = quirks.every_nth_full
        if quirks.period:
            period = config.size(quirks.period, default=period)
        full = 0 if quirks.full_leads else period - 1
        return [None if i % period == full else window for i in range(layers)]
    first = config.count("max_window_layers", quirks.first_full) if quirks.first_full else 0
    return [None if i < first else window for i in range(layers)]


FAMILY = readers(QUIRKS)
