"""Map the parts of transformers models to operators.

A family (`profiler/parts/`) lists the modules that are operators, and the gaps between modules with operators
that are not modules, such as a residual addition between the end of one module and the start of the next. A
module of several operators has their joined names, which `roofline.validate` splits. Modules that a layer
lacks are skipped, so that dense and expert layers share one entry. A new family is a new entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from profiler.parts import (
    dense,
    encoder_decoders,
    encoders,
    experts,
    gemma,
    hybrids,
    inkling,
    own,
    parallel,
    recurrent,
    streams,
    zamba2,
    zaya,
)
from profiler.parts.base import Family
from specfiles.errors import InputError
from workloads.blocks import LightningBlock, Mamba2Block, MlaBlock, SharedAttentionBlock
from workloads.families.encoders import ROBERTAS
from workloads.layer import Layer
from workloads.model import Model

# What runs before the first layer.
EMBEDDING = (
    *("embedding", "embedding_allreduce", "position_embedding", "type_embedding", "embedding_norm"),
    *("per_layer_embedding", "per_layer_projection", "per_layer_projection_norm", "altup_in_proj"),
)

FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "qwen3"), dense.LLAMA),
    "mimo": dense.LLAMA,
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"), dense.LLAMA),
    **dict.fromkeys(("granite", "granite_swa", "hyperclovax"), dense.GRANITE_3),
    **dict.fromkeys(("helium", "smollm3", "seed_oss", "olmo", "ernie4_5"), dense.LLAMA),
    **dict.fromkeys(("granite_docling_text", "hunyuan_vl_text", "molmo2_text"), dense.LLAMA),
    **dict.fromkeys(("ministral", "hunyuan_v1_dense", "internlm3", "iquestcoder", "cwm"), dense.LLAMA),
    "ministral3": dense.SCALED,
    "voxtral_realtime_text": dense.VOXTRAL,
    "bitnet": dense.BITNET,
    **dict.fromkeys(("arcee", "nemotron", "jais2"), dense.UNGATED),
    "nanochat": dense.NANOCHAT,
    "cosmos3_edge_text": dense.COSMOS_3,
    "apertus": dense.APERTUS,
    "diffllama": dense.DIFFERENTIAL,
    "starcoder2": dense.STARCODER2,
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), dense.OLMO2),
    "phi3": dense.PHI3,
    **dict.fromkeys(("phi4_multimodal", "phi4mm"), dense.PHI4),
    "glm": dense.GLM,
    "glm4": dense.GLM4,
    **dict.fromkeys(("glm4v_text", "glm_ocr_text"), dense.GLM4V),
    **dict.fromkeys(("gemma2", "gemma3_text"), dense.GEMMA2),
    "gemma3n_text": gemma.GEMMA3N,
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), gemma.GEMMA4),
    "vaultgemma": dense.VAULTGEMMA,
    "persimmon": dense.PERSIMMON,
    **dict.fromkeys(("cohere", "cohere2", "cohere_compass_text"), parallel.COHERE),
    "cohere2_moe": parallel.COHERE_MOE,
    "stablelm": parallel.STABLELM,
    **dict.fromkeys(("gpt2", "gpt_bigcode"), dense.GPT2),
    "opt": dense.OPT,
    "phi": parallel.PHI,
    "gpt_neox": parallel.NEOX,
    "bloom": own.BLOOM,
    "mpt": own.MPT,
    "gptj": own.GPTJ,
    "gpt_neo": own.GPT_NEO,
    "xglm": own.XGLM,
    "falcon": own.FALCON,
    **dict.fromkeys(("mixtral", "olmoe", "qwen3_moe", "qwen3_vl_moe_text", "minimax_m2"), experts.MOE),
    "mellum": experts.MOE,
    "mimo_v2_flash": experts.MIMO,
    **dict.fromkeys(("phimoe", "gpt_oss"), experts.PHIMOE),
    "qwen2_moe": experts.QWEN2_MOE,
    **dict.fromkeys(("glm4_moe", "dots1", "exaone_moe", "hy_v3", "solar_open"), experts.SHARED_EXPERTS),
    "glm4v_moe_text": experts.SHARED_EXPERTS,
    "kolibri1": experts.KOLIBRI,
    "flint": experts.FLINT,
    "beam": experts.BEAM,
    "ernie4_5_moe": experts.ERNIE,
    "hunyuan_v1_moe": experts.HUNYUAN,
    "flex_olmo": experts.FLEX_OLMO,
    **dict.fromkeys(("granitemoe", "granitemoeshared", "granitemoe_swa"), experts.GRANITE),
    "llama4_text": experts.LLAMA4,
    "dbrx": experts.DBRX,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"), experts.LATENT),
    **dict.fromkeys(("mistral4", "youtu"), experts.LATENT),
    "minimax_m3_vl_text": experts.MINIMAX_M3,
    "aria_text": experts.ARIA,
    "axk1": experts.AXK1,
    "axk2": experts.AXK2,
    "mistral_large4_text": experts.MISTRAL_LARGE_4,
    "minicpm3": experts.MINICPM3,
    "afmoe": experts.AFMOE,
    "muse_glimmer_text": experts.MUSE_GLIMMER,
    "muse_spark_text": experts.MUSE_SPARK,
    "laguna": experts.LAGUNA,
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), experts.INDEXED),
    "dots3_note_text": experts.DOTS_3,
    "longcat_flash": experts.LONGCAT,
    "deepseek_v4": streams.DEEPSEEK_V4,
    "hy_v4": streams.HY_V4,
    "glm5_next_text": streams.GLM5_NEXT,
    "mamba": recurrent.MAMBA,
    "falcon_mamba": recurrent.FALCON_MAMBA,
    "mamba2": recurrent.MAMBA2,
    "rwkv": recurrent.RWKV,
    **dict.fromkeys(("lfm2", "lfm2_moe"), recurrent.LFM2),
    "lfm3": recurrent.LFM3,
    "jamba": hybrids.JAMBA,
    "bamba": hybrids.BAMBA,
    "granitemoehybrid": hybrids.GRANITE_HYBRID,
    "falcon_h1": hybrids.FALCON_H1,
    "zamba2": zamba2.ZAMBA2,
    "zaya": zaya.ZAYA,
    "inkling_text": inkling.INKLING,
    "minimax": hybrids.MINIMAX,
    "nemotron_h": hybrids.NEMOTRON_H,
    "kimi_linear": hybrids.KIMI,
    "bailing_hybrid": hybrids.LING,
    "olmo_hybrid": hybrids.OLMO_HYBRID,
    "qwen3_next": hybrids.QWEN3_NEXT,
    "qwen3_5_text": hybrids.QWEN3_5,
    "qwen3_5_moe_text": hybrids.QWEN3_5_MOE,
    **dict.fromkeys(("bert", *ROBERTAS), encoders.BERT),
    "distilbert": encoders.DISTILBERT,
    "t5": encoder_decoders.T5,
    "bart": encoder_decoders.BART,
    "whisper": encoder_decoders.WHISPER,
    "switch_transformers": encoder_decoders.SWITCH,
}


def _in_turn(layer: Layer) -> bool:
    return not layer.parallel


def _lacks_post_norms(layer: Layer) -> bool:
    return not layer.post_norms


def _norms_its_gate(layer: Layer) -> bool:
    return any(isinstance(block, Mamba2Block) and block.norm for block in layer.blocks)


def _adapts(layer: Layer) -> bool:
    return any(isinstance(block, SharedAttentionBlock) and block.adapter_rank for block in layer.blocks)


# Variants of a family, by a predicate on the layers of the less usual one.
OTHERS: dict[str, tuple[Callable[[Layer], bool], Family]] = {
    "falcon": (_in_turn, own.FALCON_IN_TURN),
    "hyperclovax": (attrgetter("post_norms"), dense.HYPERCLOVA),
    "lfm3": (_lacks_post_norms, recurrent.LFM3_PLAIN),
    "stablelm": (_in_turn, parallel.STABLELM_IN_TURN),
    "falcon_h1": (_norms_its_gate, hybrids.FALCON_H1_NORMED),
    "zamba2": (_adapts, zamba2.ZAMBA2_ADAPTED),
}


TWO_STACKS_IN_ONE_GRAPH = ("t5", "bart", "whisper")
# transformers' loop over the experts that were chosen; other families have a version without it (grouped_mm).
LOOPS = dict.fromkeys(
    ("switch_transformers", "dbrx", "longcat_flash"),
    "runs its experts in a loop whose length the host reads from the device, "
    "which neither a graph can record nor one compiled function hold",
)


def check_eager(model: Model, flags: Mapping[str, bool]) -> None:
    """InputError where a model whose memory is not a plain KV cache is to run as it cannot."""
    for flag, given in flags.items():
        if flag.startswith("--mode") and model.family in TWO_STACKS_IN_ONE_GRAPH:
            continue
        if flag == "--with" and model.has_memory:  # some techniques, which their treatments say
            continue
        looping = flag.startswith("--mode") and model.family in LOOPS
        if given and (looping or model.has_memory or family(model).is_recurrent):
            why = model.manner if model.has_memory else "keeps a recurrent state"
            if looping:
                why = LOOPS[model.family]
            raise InputError(f"{model.name} {why}; leave {flag} out, its family is profiled without.")


def _before_ling_3(layer: Layer) -> bool:
    """Lightning attention, or latent attention as transformers' code of the family has not."""
    return any(
        isinstance(block, LightningBlock)
        or (isinstance(block, MlaBlock) and (bool(block.q_latent) or not block.gate_by_head))
        for block in layer.blocks
    )


# Families of which transformers' code is that of some models only, by a predicate on layers of the others.
UNCODED = {"bailing_hybrid": _before_ling_3}


def family(model: Model) -> Family:
    """The parts of a model's family; InputError says why a model has none."""
    if model.family not in FAMILIES or _is_uncoded(model):
        raise InputError(_without_parts(model))
    if model.family in OTHERS:
        differs, other = OTHERS[model.family]
        if any(map(differs, model.layers)):
            return other
    return FAMILIES[model.family]


def _is_uncoded(model: Model) -> bool:
    return model.family in UNCODED and any(map(UNCODED[model.family], model.layers))


def _without_parts(model: Model) -> str:
    """Why a model is not profiled under ranges."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    known = model.family in MODEL_MAPPING_NAMES
    why = "whose modules have no ranges" if known else "of which transformers has no code"
    if _is_uncoded(model):
        why = "of which transformers' code has no such layers"
    return (
        f"{model.name} is of family {model.family!r}, {why}: it is only predicted; "
        "a module of yours is profiled as MODULE:FUNCTION, each operation by itself."
    )
