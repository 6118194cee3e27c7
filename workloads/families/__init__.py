"""From a config to a model: one function per family of configs, found by `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from specfiles.errors import TYPO, InputError, nearest
from workloads.config import Config
from workloads.model import Model

# Module -> the values of `model_type` that it reads, whose functions are its FAMILY. A module is imported
# when one of them is asked for.
READERS: dict[str, str] = {
    "llama": (
        "llama mistral qwen2 qwen3 phi3 gemma gemma2 vaultgemma gemma3_text glm glm4 mixtral phimoe olmoe "
        "qwen2_moe qwen3_moe glm4_moe minimax_m2 gpt_oss"
    ),
    "kin": (
        "granite granitemoe granitemoeshared granite_swa granitemoe_swa hyperclovax ministral "
        "ministral3 seed_oss helium smollm3 arcee nemotron jais2 apertus diffllama cwm starcoder2 "
        "stablelm ernie4_5 ernie4_5_moe hunyuan_v1_dense hunyuan_v1_moe dots1 hy_v3 solar_open "
        "internlm3 iquestcoder persimmon olmo olmo2 flex_olmo olmo3 exaone4 exaone_moe cohere "
        "cohere2 bitnet nanochat mellum aria_text kolibri1 mimo deepseek internlm2 bailing_moe "
        "bailing_moe_v2 minicpm orion cohere2_moe flint"
    ),
    "multimodal": (
        "qwen2_vl_text qwen2_5_vl_text qwen3_vl_text qwen3_vl_moe_text qwen2_5_omni_text "
        "qwen3_omni_moe_text granite4_vision_text granite_docling_text hunyuan_vl_text "
        "paddleocr_vl_text glm_ocr_text glm4v_text glm4v_moe_text cohere_compass_text "
        "emu3_text_model cosmos3_edge_text deepseek_ocr2_text phi4_multimodal phi4mm ernie4_5_vl_moe_text "
        "ernie4_5_moe_vl molmo2_text voxtral_realtime_text "
        "mllama_text_model"
    ),
    "gpt": "gpt2 gpt_bigcode gpt_neo opt xglm",
    "gemma": "gemma3n_text gemma4_text gemma4_unified_text",
    "recurrent": "mamba falcon_mamba mamba2 rwkv rwkv5 rwkv6 rwkv7",
    "hybrid": (
        "nemotron_h jamba bamba falcon_h1 granitemoehybrid olmo_hybrid qwen3_5_text qwen3_next "
        "qwen3_5_moe_text"
    ),
    "zamba2": "zamba2",
    "qwen4": "qwen4_exp_text",
    "lightning": "minimax minimax_text_01 minimax_m1",
    "lfm2": "lfm2 lfm2_moe lfm3",
    "ling": "bailing_hybrid",
    "encoders": ("bert roberta xlm-roberta camembert data2vec-text longformer big_bird linformer distilbert"),
    "t5": "t5 switch_transformers",
    "bart": "bart",
    "whisper": "whisper",
    "diffusion": "llada sedd",
    "parallel": "gptj gpt_neox phi falcon",
    "alibi": "bloom mpt",
    "latent": (
        "deepseek_v2 deepseek_v3 kimi_k2 deepseek_v32 glm_moe_dsa glm4_moe_lite mistral4 youtu "
        "minicpm3 hy_v4 axk1 axk2 mistral_large4_text"
    ),
    "varied": "llama4_text dbrx nemotron-nas mobilellm mimo_v2_flash mimo_v2",
    "kernel": "linear_attention",
    "gated": "step3p5 afmoe laguna beam muse_glimmer_text muse_spark_text",
    "block_sparse": "minimax_m3 minimax_m3_text minimax_m3_vl_text",
    "compressed": "deepseek_v4",
    "glm5_next": "glm5_next_text",
    "dots3": "dots3_note_text",
    "hrm": "hrm_text",
    "zaya": "zaya",
    "inkling": "inkling_text inkling_model",
    "kimi": "kimi_linear",
    "longcat": "longcat_flash",
}
FAMILIES = {kind: module for module, kinds in READERS.items() for kind in kinds.split()}


# Modules of multi-token prediction in a checkpoint, by the fields that vLLM reads (config/speculative.py).
# Not MiniMax's `num_mtp_modules`: what it announces was not published (MiniMax-AI/MiniMax-M2.7, issue 16).
DRAFTS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
UNSTATED_DRAFTS = {"qwen3_next": 1}  # vLLM, models/qwen3_next_mtp.py: one where the config has no field
# Fields of multimodal configs that hold their decoder: most; Qwen's omni models; DeepSeek-VL2; InternVL.
NESTED = ("text_config", "thinker_config", "language_config", "llm_config")
TRACE = "trace its module with --from-module MODULE:FUNCTION"


def _module(name: str) -> Any:
    return import_module(f"workloads.families.{name}")


def decoder_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the decoder: multimodal configs keep them in one of theirs, but for the tied head."""
    inside = (fields.get(name) for name in NESTED)
    nested = next((found for each in inside if (found := _decoder_in(each)) is not None), None)
    if nested is None:
        return fields
    said = {name: fields[name] for name in ("tie_word_embeddings",) if name in fields}
    whole = f"{fields.get('model_type')}_text"  # what a decoder is that does not say (MiniMax-M3)
    return said | ({"model_type": whole} if whole in FAMILIES else {}) | nested


def _decoder_in(nested: object) -> dict[str, Any] | None:
    """The fields of a decoder in what a config holds, which may hold it deeper (Qwen's thinkers)."""
    if not isinstance(nested, dict):
        return None
    inner = nested.get("text_config")
    if isinstance(inner, dict) and "hidden_size" in inner:
        return inner
    return nested if "hidden_size" in nested else None


def _unknown(origin: str, kind: str) -> InputError:
    if not kind:
        return InputError(f"{origin}: field 'model_type' is missing; known: {', '.join(sorted(FAMILIES))}.")
    if why := _module("refused").WHY.get(kind):
        return InputError(f"{origin}: model_type {kind!r} is not read, as {why}; {TRACE}.")
    close = nearest(kind, list(FAMILIES), most=1, cutoff=TYPO)
    same = "if its layers are those of a known one (`roofline models families`), name that in the file"
    hint = f"the nearest known one is {close[0]!r}" if close else same
    return InputError(f"{origin}: model_type {kind!r} is not known; {hint}, or {TRACE}.")


def build(config: Config, name: str) -> Model:
    """The model that a config describes.

    Raises InputError for an unknown `model_type` and for a missing, wrong or contradictory field.
    """
    tower = config.fields.get("vision_config")
    whole = config
    inner = decoder_fields(config.fields)
    if inner is not config.fields:
        where = next(name for name in NESTED if _decoder_in(config.fields.get(name)) is not None)
        config = Config(inner, f"{config.origin} ({where})")
    kind = config.kind
    if kind not in FAMILIES:
        raise _unknown(config.origin, kind)
    model: Model = _module(FAMILIES[kind]).FAMILY[kind](config)
    if tower is not None and (vision := _module("vision")).reads_tower(whole.kind, kind):
        model = vision.behind_tower(model, whole.nested("vision_config"))
    stated = next((field for field in DRAFTS if config.fields.get(field) is not None), DRAFTS[0])
    drafts = config.count(stated, UNSTATED_DRAFTS.get(kind, 0))
    return replace(model, name=name, stack=replace(model.stack, drafts=drafts))
