"""More decoders of Llama's block: in what each differs from it."""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import RMS_NORM, UNSCALED, AttentionBlock, MlpBlock, NormShape
from workloads.config import Config
from workloads.families import experts
from workloads.families.common import BARE_LAYER_NORM, LAYER_NORM
from workloads.families.llama import PERIOD, WINDOW_TYPES, Quirks, readers
from workloads.families.llama import QUIRKS as LLAMA
from workloads.layer import Layer
from workloads.model import Model

_USE_BIAS = ("use_bias", "use_bias", "use_bias")
_OLMO2 = Quirks(input_norms=False, post_norms=True, qk_norm=RMS_NORM, qk_norm_whole="heads")
_FOURTH_FULL = Quirks(window=4096, every_nth_full=4, period=PERIOD, unrotated="full")
EXAONE = replace(_FOURTH_FULL, biases=("", "", ""), qk_norm=RMS_NORM)
ERNIE = Quirks(biases=_USE_BIAS, kv_heads=2, head_dim=128, tied=True)
_BAILING = Quirks(
    biases=("use_qkv_bias", "use_bias", "use_bias"),
    fused_qkv=True,
    qk_norm=RMS_NORM,
    qk_norm_flag="use_qk_norm",
    feed_forward=experts.bailing,
)
_GRANITE_SWA = Quirks(
    tied=True, kv_heads=4, sinks=True, window=128, every_nth_full=4, full_leads=True, unrotated="theta"
)
# Granite multiplies embeddings, residuals and logits by constants, which kernels beside them take along.
QUIRKS = {
    "granite": Quirks(),
    "granitemoe": Quirks(feed_forward=experts.in_each("num_local_experts", 8)),
    "granitemoeshared": Quirks(feed_forward=experts.granite),
    "granite_swa": _GRANITE_SWA,
    "granitemoe_swa": replace(_GRANITE_SWA, tied=False, kv_heads=None, feed_forward=experts.granite),
    "hyperclovax": Quirks(post_norms="use_post_norm"),
    "ministral": Quirks(kv_heads=8, window=4096),
    "ministral3": Quirks(windowed=True, kv_heads=8, head_dim=128),
    "seed_oss": Quirks(
        biases=("attention_bias", "attention_out_bias", "mlp_bias"),
        biased=("attention_bias",),
        kv_heads=8,
        head_dim=128,
    ),
    "helium": Quirks(biases=("attention_bias", "", "mlp_bias"), head_dim=128),
    "smollm3": Quirks(kv_heads=4, tied=True, unrotated="listed", window_needs_flag=True),
    "arcee": Quirks(gated=False, activation="relu2"),
    "nemotron": Quirks(norm=LAYER_NORM, gated=False, activation="relu2", rotary=0.5),
    "jais2": Quirks(biased=("attention_bias", "mlp_bias"), norm=LAYER_NORM, gated=False, activation="relu2"),
    "apertus": Quirks(
        biases=("attention_bias", "attention_bias", ""), qk_norm=RMS_NORM, gated=False, activation="xielu"
    ),
    "diffllama": Quirks(biases=("attention_bias", "attention_bias", ""), differential=True),
    "cwm": Quirks(
        biases=("", "", "mlp_bias"), kv_heads=8, head_dim=128, window=8192, every_nth_full=4, full_leads=True
    ),
    "starcoder2": Quirks(
        windowed=True,
        biases=_USE_BIAS,
        biased=_USE_BIAS,
        norm=LAYER_NORM,
        kv_heads=2,
        tied=True,
        gated=False,
        activation="gelu_tanh",
    ),
    "stablelm": Quirks(
        biases=("use_qkv_bias", "", ""),
        norm=LAYER_NORM,
        parallel="use_parallel_residual",
        qk_norm=BARE_LAYER_NORM,
        qk_norm_flag="qk_layernorm",
        qk_norm_whole="weights",
        rotary=0.25,
    ),
    "ernie4_5": ERNIE,
    "ernie4_5_moe": Quirks(
        biases=_USE_BIAS, kv_heads=4, tied=True, head_bias="use_bias", feed_forward=experts.ernie
    ),
    "hunyuan_v1_dense": Quirks(qk_norm=RMS_NORM),
    "hunyuan_v1_moe": Quirks(qk_norm=RMS_NORM, feed_forward=experts.hunyuan),
    "dots1": Quirks(qk_norm=RMS_NORM, window=4096, first_full=62, feed_forward=experts.deepseek),
    "hy_v3": Quirks(qk_norm=RMS_NORM, kv_heads=8, head_dim=128, feed_forward=experts.deepseek),
    "solar_open": Quirks(
        biases=("attention_bias", "", ""), kv_heads=8, head_dim=128, feed_forward=experts.deepseek
    ),
    "internlm3": Quirks(biases=("qkv_bias", "bias", "bias"), kv_heads=2, head_dim=128),
    "iquestcoder": Quirks(kv_heads=8, head_dim=128),
    "persimmon": Quirks(
        biases=_USE_BIAS,
        biased=_USE_BIAS,
        norm=LAYER_NORM,
        qk_norm=LAYER_NORM,
        qk_norm_flag="qk_layernorm",
        qk_normed=True,
        fused_qkv=True,
        rotary=0.5,
        gated=False,
        activation="relu2",
    ),
    "olmo": Quirks(norm=NormShape(center=True, scale=False), biases=("attention_bias", "attention_bias", "")),
    "olmo2": _OLMO2,
    "flex_olmo": replace(_OLMO2, feed_forward=experts.in_each("num_experts", 7, 5)),
    "olmo3": replace(_OLMO2, window=4096, every_nth_full=4),
    "exaone4": replace(EXAONE, input_norms=False, post_norms=True),
    "exaone_moe": replace(EXAONE, feed_forward=experts.deepseek),
    "cohere": Quirks(
        norm=BARE_LAYER_NORM,
        parallel=True,
        qk_norm=BARE_LAYER_NORM,
        qk_norm_flag="use_qk_norm",
        qk_norm_whole="weights",
        tied=True,
    ),
    "cohere2": replace(_FOURTH_FULL, norm=BARE_LAYER_NORM, parallel=True, tied=True),
    "bitnet": Quirks(activation="relu2", inner_norms=True),
    "nanochat": Quirks(
        norm=UNSCALED, embedding_norm=UNSCALED, qk_norm=UNSCALED, gated=False, activation="relu2"
    ),
    "mellum": Quirks(
        qk_norm=RMS_NORM, kv_heads=4, head_dim=128, window=1024, every_nth_full=1, feed_forward=experts.qwen
    ),
    "aria_text": Quirks(feed_forward=experts.aria),
    "kolibri1": replace(
        EXAONE,
        head_dim=128,
        kv_heads=4,
        window=513,
        every_nth_full=5,
        post_norms=True,
        feed_forward=experts.qwen,
    ),
    "mimo": LLAMA["qwen2"],  # MiMo-7B (vLLM, models/mimo.py)
    # By vLLM's code alone: DeepSeekMoE, InternLM 2, Ling and Ring, MiniCPM, Orion (models/*.py).
    "deepseek": Quirks(feed_forward=experts.deepseek),
    "internlm2": Quirks(biases=("bias", "bias", ""), fused_qkv=True),
    "bailing_moe": _BAILING,
    "bailing_moe_v2": _BAILING,
    "minicpm": Quirks(tied=True),
    "orion": Quirks(norm=LAYER_NORM),
}


def _cohere2_moe(config: Config) -> Model:
    """Dense layers first, with windows of a period of their own; either norm.

    Layers that see all do not rotate, but for dense ones where none of these has a window.
    """
    count, first = config.layers("num_hidden_layers"), config.count("first_k_dense_replace", 0)
    prefix = config.size("prefix_dense_sliding_window_pattern", default=1)
    fields = dict(config.fields)
    if fields.get("layer_types") is None:
        period = config.size(PERIOD, default=4)
        places = [(i + 1) % prefix for i in range(first)] + [(i + 1) % period for i in range(count - first)]
        fields["layer_types"] = [WINDOW_TYPES[place == 0] for place in places]
    own = replace(QUIRKS["cohere2"], feed_forward=experts.cohere, head_dim=128)
    if config.fields.get("rms_norm_eps") is not None:
        own = replace(own, norm=RMS_NORM)
    model = readers({config.kind: own})[config.kind](Config(fields, config.origin))
    if prefix != 1:
        return model
    layers = tuple(_rotated(layer) for layer in model.layers)
    return replace(model, stack=replace(model.stack, layers=layers))


def _flint(config: Config) -> Model:
    """Flint: its first two layers are dense and see all, as do every fourth behind them and the last."""
    count, fields = config.layers("num_hidden_layers"), dict(config.fields)
    if fields.get("layer_types") is None:
        full = {0, *range(1, count, 4), count - 1}
        fields["layer_types"] = [WINDOW_TYPES[i in full] for i in range(count)]
    if fields.get("mlp_only_layers") is None:
        fields["mlp_only_layers"] = [0, 1][:count]
    own = Quirks(
        qk_norm=RMS_NORM,
        kv_heads=4,
        head_dim=128,
        sinks=True,
        window=513,
        unrotated="full",
        feed_forward=experts.qwen,
    )
    return readers({config.kind: own})[config.kind](Config(fields, config.origin))


def _rotated(layer: Layer) -> Layer:
    attention, wide = layer.blocks
    assert isinstance(attention, AttentionBlock)
    if not isinstance(wide, MlpBlock):
        return layer
    return replace(layer, blocks=(replace(attention, rotary_dim=attention.head_dim), wide))


FAMILY = {**readers(QUIRKS), "cohere2_moe": _cohere2_moe, "flint": _flint}
