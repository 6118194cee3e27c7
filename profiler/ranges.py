"""Map the parts of transformers models to operators.

A family (`profiler/parts/`) lists the modules that are operators, and the gaps between modules with operators
that are not modules, such as a residual addition between the end of one module and the start of the next. A
module of several operators has their joined names, which `roofline.validate` splits. Modules that a layer
lacks are skipped, so that dense and expert layers share one entry. A new family is a new entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from profiler.parts.base import Family
from profiler.parts.dense import (
    GEMMA2,
    GLM,
    GLM4,
    GPT2,
    GRANITE_3,
    LLAMA,
    OLMO2,
    OPT,
    PHI3,
    SCALED,
    STARCODER2,
    UNGATED,
)
from profiler.parts.encoder_decoders import BART, SWITCH, T5
from profiler.parts.encoders import BERT
from profiler.parts.experts import (
    DBRX,
    ERNIE,
    FLEX_OLMO,
    GRANITE,
    HUNYUAN,
    LATENT,
    LLAMA4,
    MOE,
    PHIMOE,
    QWEN2_MOE,
    SHARED_EXPERTS,
)
from profiler.parts.hybrids import (
    BAMBA,
    FALCON_H1,
    FALCON_H1_NORMED,
    GRANITE_HYBRID,
    JAMBA,
    NEMOTRON_H,
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_NEXT,
)
from profiler.parts.own import BLOOM, FALCON, FALCON_IN_TURN, GPTJ, MPT
from profiler.parts.parallel import COHERE, NEOX, PHI, STABLELM, STABLELM_IN_TURN
from profiler.parts.recurrent import LFM2, MAMBA, MAMBA2, RWKV
from profiler.parts.zamba2 import ZAMBA2, ZAMBA2_ADAPTED
from specfiles.errors import InputError
from workloads.blocks import Mamba2Block, SharedAttentionBlock
from workloads.layer import Layer
from workloads.model import Model

# What runs before the first layer.
EMBEDDING = ("embedding", "position_embedding", "type_embedding", "embedding_norm")

FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "qwen3"), LLAMA),
    "granite": GRANITE_3,
    **dict.fromkeys(("helium", "smollm3", "seed_oss", "olmo", "ernie4_5"), LLAMA),
    **dict.fromkeys(("ministral", "hunyuan_v1_dense"), LLAMA),
    "ministral3": SCALED,
    **dict.fromkeys(("arcee", "nemotron"), UNGATED),
    "starcoder2": STARCODER2,
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), OLMO2),
    "phi3": PHI3,
    "glm": GLM,
    "glm4": GLM4,
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA2),
    **dict.fromkeys(("cohere", "cohere2"), COHERE),
    "stablelm": STABLELM,
    "gpt2": GPT2,
    "opt": OPT,
    "phi": PHI,
    "gpt_neox": NEOX,
    "bloom": BLOOM,
    "mpt": MPT,
    "gptj": GPTJ,
    "falcon": FALCON,
    **dict.fromkeys(("mixtral", "olmoe", "qwen3_moe", "minimax_m2"), MOE),
    **dict.fromkeys(("phimoe", "gpt_oss"), PHIMOE),
    "qwen2_moe": QWEN2_MOE,
    **dict.fromkeys(("glm4_moe", "dots1"), SHARED_EXPERTS),
    "ernie4_5_moe": ERNIE,
    "hunyuan_v1_moe": HUNYUAN,
    "flex_olmo": FLEX_OLMO,
    **dict.fromkeys(("granitemoe", "granitemoeshared"), GRANITE),
    "llama4_text": LLAMA4,
    "dbrx": DBRX,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2"), LATENT),
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "rwkv": RWKV,
    **dict.fromkeys(("lfm2", "lfm2_moe"), LFM2),
    "jamba": JAMBA,
    "bamba": BAMBA,
    "granitemoehybrid": GRANITE_HYBRID,
    "falcon_h1": FALCON_H1,
    "zamba2": ZAMBA2,
    "nemotron_h": NEMOTRON_H,
    "qwen3_next": QWEN3_NEXT,
    "qwen3_5_text": QWEN3_5,
    "qwen3_5_moe_text": QWEN3_5_MOE,
    **dict.fromkeys(("bert", "roberta"), BERT),
    "t5": T5,
    "bart": BART,
    "switch_transformers": SWITCH,
}


def _in_turn(layer: Layer) -> bool:
    return not layer.parallel


def _norms_its_gate(layer: Layer) -> bool:
    return any(isinstance(block, Mamba2Block) and block.norm for block in layer.blocks)


def _adapts(layer: Layer) -> bool:
    return any(isinstance(block, SharedAttentionBlock) and block.adapter_rank for block in layer.blocks)


# Variants of a family, by a predicate on the layers of the less usual one.
OTHERS: dict[str, tuple[Callable[[Layer], bool], Family]] = {
    "falcon": (_in_turn, FALCON_IN_TURN),
    "stablelm": (_in_turn, STABLELM_IN_TURN),
    "falcon_h1": (_norms_its_gate, FALCON_H1_NORMED),
    "zamba2": (_adapts, ZAMBA2_ADAPTED),
}


def check_eager(model: Model, flags: Mapping[str, bool]) -> None:
    """InputError where a model whose memory is not a plain KV cache is not to run eagerly."""
    for flag, given in flags.items():
        if given and (model.has_memory or family(model).is_recurrent):
            why = model.manner if model.has_memory else "keeps a recurrent state"
            raise InputError(
                f"{model.name} {why}, and such models are profiled operator by operator alone; "
                f"leave {flag} out."
            )


def family(model: Model) -> Family:
    """The parts of a model's family; InputError lists the known ones."""
    if model.family not in FAMILIES:
        raise InputError(
            f"{model.name} is of family {model.family!r}, whose parts are not known; "
            f"known: {', '.join(FAMILIES)}."
        )
    if model.family in OTHERS:
        differs, other = OTHERS[model.family]
        if any(map(differs, model.layers)):
            return other
    return FAMILIES[model.family]
