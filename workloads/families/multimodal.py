"""Decoders of models that also see or hear, whose towers `families.vision` does not read: Llama's kin.

By the code of transformers (models/NAME of each, with `_text` taken off).
"""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import RMS_NORM, ConditionedMlpBlock, MlpBlock, TokenTable
from workloads.config import Config
from workloads.families import experts
from workloads.families.kin import ERNIE
from workloads.families.kin import QUIRKS as KIN
from workloads.families.llama import QUIRKS as LLAMA
from workloads.families.llama import Quirks, readers
from workloads.model import Model

_QWEN2_VL = replace(LLAMA["qwen2"], kv_heads=8, first_full=80)
_QWEN3_VL = Quirks(qk_norm=RMS_NORM, kv_heads=32, head_dim=128)
_PHI4 = replace(LLAMA["phi3"], kv_heads=8)
QUIRKS = {
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3_vl_text": _QWEN3_VL,
    "qwen3_vl_moe_text": replace(_QWEN3_VL, kv_heads=16, head_dim=None, tied=True, feed_forward=experts.qwen),
    "qwen2_5_omni_text": replace(_QWEN2_VL, kv_heads=4, tied=True),
    "qwen3_omni_moe_text": Quirks(qk_norm=RMS_NORM, kv_heads=4, feed_forward=experts.qwen),
    "granite4_vision_text": Quirks(),
    "granite_docling_text": Quirks(kv_heads=4, tied=True),
    "hunyuan_vl_text": Quirks(qk_norm=RMS_NORM, tied=True),
    "paddleocr_vl_text": ERNIE,
    "glm_ocr_text": replace(LLAMA["glm4"], biases=("", "", ""), kv_heads=8, rotary=1.0),
    "glm4v_text": replace(LLAMA["glm4"], biases=("", "", ""), qkv_bias=True, head_dim=None, rotary=1.0),
    "glm4v_moe_text": replace(LLAMA["glm4_moe"], biased=("attention_bias",), qk_norm=None),
    "cohere_compass_text": replace(KIN["cohere2"], every_nth_full=1, period="", unrotated="null"),
    "emu3_text_model": Quirks(kv_heads=8),
    "cosmos3_edge_text": Quirks(kv_heads=8, head_dim=128, gated=False, activation="relu2"),
    "deepseek_ocr2_text": Quirks(feed_forward=experts.deepseek),
    # Its adapters for images and sound (LoRA) do not run where there is text alone.
    "phi4_multimodal": _PHI4,
    "phi4mm": _PHI4,
}


def without_latents(config: Config) -> Model:
    """DeepSeek-V2's experts behind attention that has no latents."""
    return readers({config.kind: QUIRKS["deepseek_ocr2_text"]})[config.kind](config)


def _ernie_vl(config: Config) -> Model:
    """Text goes through experts of its own, which its authors state first; those of images are left out."""
    pairs = {name: value[0] for name, value in config.fields.items() if name in BY_MODALITY and _pair(value)}
    own = Config({**config.fields, **pairs}, config.origin)
    return readers({config.kind: replace(KIN["ernie4_5_moe"], head_bias="lm_head_bias")})[config.kind](own)


BY_MODALITY = ("moe_num_experts", "moe_intermediate_size", "moe_layer_start_index", "moe_layer_end_index")


def _pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _molmo2(config: Config) -> Model:
    """Rows of the embedding behind the vocabulary; norms before blocks or behind them."""
    kind = config.text("qk_norm_type", default="qwen3")
    if kind not in ("qwen3", "olmo"):
        raise config.wrong("qk_norm_type", "qwen3 or olmo")
    behind = config.flag("norm_after", False)
    quirks = Quirks(
        biases=("attention_bias", "", ""),
        qk_norm=RMS_NORM,
        qk_norm_whole="heads" if kind == "olmo" else "",
        kv_heads=8,
        head_dim=128,
        input_norms=not behind,
        post_norms=behind,
    )
    model = readers({config.kind: quirks})[config.kind](config)
    rows = TokenTable(model.vocabulary + config.count("additional_vocab_size", 128))
    return replace(model, stack=replace(model.stack, inputs=(rows, *model.stack.inputs[1:])))


def _voxtral(config: Config) -> Model:
    """Mistral's layers, whose MLPs know the delay of the stream."""
    model = readers({config.kind: LLAMA["mistral"]})[config.kind](config)
    _, mlp = model.layers[0].blocks
    assert isinstance(mlp, MlpBlock)
    wide = ConditionedMlpBlock(mlp.width, mlp.activation, bias=mlp.bias, rank=32)  # which no field states
    layers = tuple(replace(layer, blocks=(layer.blocks[0], wide)) for layer in model.layers)
    return replace(model, stack=replace(model.stack, layers=layers))


def _mllama(config: Config) -> Model:
    """Llama 3.2 Vision: layers that attend to images, which texts skip, are left out as towers are."""
    count = config.layers("num_hidden_layers", default=40)
    default = [i for i in (3, 8, 13, 18, 23, 28, 33, 38) if i < count]
    skipped = config.indices("cross_attention_layers", count)
    skipped = default if skipped is None else skipped
    if len(set(skipped)) == count:
        raise config.wrong("cross_attention_layers", "some layers of the decoder only, not all")
    own = Config({**config.fields, "num_hidden_layers": count - len(set(skipped))}, config.origin)
    model = readers({config.kind: Quirks(biases=("", "", ""), kv_heads=8)})[config.kind](own)
    rows = TokenTable(model.vocabulary + 8)  # of places of images
    return replace(model, stack=replace(model.stack, inputs=(rows, *model.stack.inputs[1:])))


FAMILY = {
    **readers(QUIRKS),
    **dict.fromkeys(("ernie4_5_vl_moe_text", "ernie4_5_moe_vl"), _ernie_vl),
    "molmo2_text": _molmo2,
    "voxtral_realtime_text": _voxtral,
    "mllama_text_model": _mllama,
}
