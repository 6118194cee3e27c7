"""Which part of a transformers model is which operator of ours.

A family (`profiler/parts/`) lists the modules that are operators, and the gaps between modules in which
operators live that are no modules: a residual addition stands between the end of one module and the start of
the next. A module that does several operators bears all their names, joined as `roofline.validate` takes
them apart. What a layer has not is left out of it, so that dense layers and those with experts are one
entry. Adding a family is adding an entry.
"""

from __future__ import annotations

from collections.abc import Mapping

from profiler.parts.base import Family
from profiler.parts.dense import GEMMA2, GEMMA3, GPT2, LLAMA, OPT, PHI3, QWEN3
from profiler.parts.encoders import BERT
from profiler.parts.experts import LATENT, MOE, PHIMOE, QWEN2_MOE, SHARED_EXPERTS
from profiler.parts.hybrids import JAMBA, NEMOTRON_H, QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT
from profiler.parts.own import BLOOM, FALCON, GPTJ, IN_TURN, MPT
from profiler.parts.parallel import NEOX, PHI
from profiler.parts.recurrent import MAMBA, MAMBA2, RWKV
from specfiles.errors import InputError
from workloads.model import Model

# What runs before the first layer.
EMBEDDING = ("embedding", "position_embedding", "type_embedding", "embedding_norm")

FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "gemma": LLAMA,
    "qwen3": QWEN3,
    "phi3": PHI3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "opt": OPT,
    "phi": PHI,
    "gpt_neox": NEOX,
    "bloom": BLOOM,
    "mpt": MPT,
    "gptj": GPTJ,
    "falcon": FALCON,
    "mixtral": MOE,
    "olmoe": MOE,
    "qwen3_moe": MOE,
    "phimoe": PHIMOE,
    "gpt_oss": PHIMOE,
    "qwen2_moe": QWEN2_MOE,
    "glm4_moe": SHARED_EXPERTS,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "rwkv": RWKV,
    "jamba": JAMBA,
    "nemotron_h": NEMOTRON_H,
    "qwen3_next": QWEN3_NEXT,
    "qwen3_5_text": QWEN3_5,
    "qwen3_5_moe_text": QWEN3_5_MOE,
    "bert": BERT,
    "roberta": BERT,
}


def check_recurrent(model: Model, flags: Mapping[str, bool]) -> None:
    """An InputError where a model that keeps a state is to be run otherwise than operator by operator."""
    for flag, given in flags.items():
        if given and family(model).is_recurrent:
            raise InputError(
                f"{model.name} keeps a recurrent state, and such models are profiled operator by operator "
                f"alone; leave {flag} out."
            )


def family(model: Model) -> Family:
    """The parts of a model's family; an InputError lists the known ones."""
    if model.family not in FAMILIES:
        raise InputError(
            f"{model.name} is of family {model.family!r}, whose parts are not known; "
            f"known: {', '.join(FAMILIES)}."
        )
    if model.family in IN_TURN and not model.layers[0].parallel:
        return IN_TURN[model.family]
    return FAMILIES[model.family]
