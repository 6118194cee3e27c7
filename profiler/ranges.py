"""Which part of a transformers model is which operator of ours.

A family lists the modules that are operators, and the gaps between modules in which operators live
that are no modules: a residual addition stands between the end of one module and the start of the
next. A module that does several operators bears all their names, joined as `roofline.validate` takes
them apart. What a layer has not is left out of it, so that dense layers and those with experts are one
entry. Adding a family is adding an entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from profiler.ranks.share import SUM
from specfiles.errors import InputError
from workloads.model import Model

FRAMEWORK = "framework."  # what the names of ranges begin with that are no operators of a description
INPUTS = FRAMEWORK + "inputs"  # positions, rotary tables, masks: between the embedding and the first layer
HEADS = FRAMEWORK + "heads"  # parts of heads taken apart, joined and copied between two operators
# What runs before the first layer.
EMBEDDING = ("embedding", "position_embedding", "type_embedding", "embedding_norm")


@dataclass(frozen=True)
class Gap:
    """The time from the end of `after` to the start of `before` ("" is the end of the layer).

    `inside` a module the time ends where that module does: `before` is the module, then.
    """

    after: str
    before: str
    name: str
    inside: bool = False


@dataclass(frozen=True)
class Family:
    """Where a family keeps its parts; names inside a layer are relative to it."""

    layers: str
    modules: dict[str, str]
    gaps: tuple[Gap, ...]
    outside: dict[str, str]
    # Where attention is code of the model's own: it lasts from the cache's update to the call of this module.
    attends_until: str = ""
    heads_behind: tuple[str, ...] = ()  # the ranges behind which heads are put together, up to the next range


_ATTENTION = {
    f"self_attn.{name}": f"layers.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")
}
_MLP = {f"mlp.{name}": f"layers.mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
_SUMS = {  # of a model that processes share (profiler/ranks/share.py)
    f"self_attn.{SUM}": "layers.attention_allreduce",
    f"mlp.{SUM}": "layers.mlp_allreduce",
}
_GATED_ACTIVATION = {"mlp.act_fn": "layers.mlp.act_mul"}
_PRODUCT = Gap("mlp.up_proj", "mlp.down_proj", "layers.mlp.act_mul")
_OUTSIDE = {"model.embed_tokens": "embedding", "model.norm": "final_norm", "lm_head": "lm_head"}
_NORMS = {"input_layernorm": "layers.attention_norm", "post_attention_layernorm": "layers.mlp_norm"}
_RESIDUALS = (
    Gap("self_attn", "post_attention_layernorm", "layers.attention_residual"),
    Gap("mlp", "", "layers.mlp_residual"),
)
_QK_NORMS = {f"self_attn.{name}": f"layers.attention.{name}" for name in ("q_norm", "k_norm")}
_SANDWICH_NORMS = {
    "input_layernorm": "layers.attention_norm",
    "post_attention_layernorm": "layers.attention_post_norm",
    "pre_feedforward_layernorm": "layers.mlp_norm",
    "post_feedforward_layernorm": "layers.mlp_post_norm",
}
_SANDWICH_RESIDUALS = (
    Gap("post_attention_layernorm", "pre_feedforward_layernorm", "layers.attention_residual"),
    Gap("post_feedforward_layernorm", "", "layers.mlp_residual"),
)

_LLAMA = Family(
    "model.layers",
    {**_ATTENTION, **_MLP, **_GATED_ACTIVATION, **_NORMS, **_SUMS},
    (*_RESIDUALS, _PRODUCT),
    _OUTSIDE,
)
_QWEN3 = Family("model.layers", {**_LLAMA.modules, **_QK_NORMS}, _LLAMA.gaps, _OUTSIDE)
_PHI3 = Family(
    "model.layers",
    {
        "self_attn.qkv_proj": "layers.attention.qkv_proj",
        "self_attn.o_proj": "layers.attention.o_proj",
        "mlp.gate_up_proj": "layers.mlp.gate_up_proj",
        "mlp.down_proj": "layers.mlp.down_proj",
        **_NORMS,
    },
    (*_RESIDUALS, Gap("mlp.gate_up_proj", "mlp.down_proj", "layers.mlp.act_mul")),
    _OUTSIDE,
)
_GEMMA2 = Family(
    "model.layers",
    {**_ATTENTION, **_MLP, **_GATED_ACTIVATION, **_SANDWICH_NORMS},
    (*_SANDWICH_RESIDUALS, _PRODUCT),
    _OUTSIDE,
)
_GEMMA3 = Family("model.layers", {**_GEMMA2.modules, **_QK_NORMS}, _GEMMA2.gaps, _OUTSIDE)
_GPT2 = Family(
    "transformer.h",
    {
        "attn.c_attn": "layers.attention.qkv_proj",
        "attn.c_proj": "layers.attention.o_proj",
        "mlp.c_fc": "layers.mlp.up_proj",
        "mlp.act": "layers.mlp.act_mul",
        "mlp.c_proj": "layers.mlp.down_proj",
        "ln_1": "layers.attention_norm",
        "ln_2": "layers.mlp_norm",
    },
    (Gap("attn", "ln_2", "layers.attention_residual"), Gap("mlp", "", "layers.mlp_residual")),
    {
        "transformer.wte": "embedding",
        "transformer.wpe": "position_embedding",
        "transformer.ln_f": "final_norm",
        "lm_head": "lm_head",
    },
    heads_behind=("layers.attention.qkv_proj",),
)
_OPT = Family(
    "model.decoder.layers",
    {
        **{f"self_attn.{n}_proj": f"layers.attention.{n}_proj" for n in "qkv"},
        "self_attn.out_proj": "layers.attention.o_proj",
        "self_attn_layer_norm": "layers.attention_norm",
        "final_layer_norm": "layers.mlp_norm",
        "fc1": "layers.mlp.up_proj",
        "activation_fn": "layers.mlp.act_mul",
        "fc2": "layers.mlp.down_proj",
    },
    (
        Gap("self_attn", "final_layer_norm", "layers.attention_residual"),
        Gap("fc2", "", "layers.mlp_residual"),
    ),
    {
        "model.decoder.embed_tokens": "embedding",
        "model.decoder.embed_positions": "position_embedding",
        "model.decoder.final_layer_norm": "final_norm",
        "lm_head": "lm_head",
    },
)

_EXPERTS = ("permute", "experts_gate_up_proj", "experts_act_mul", "experts_down_proj", "combine")
_MOE = Family(
    "model.layers",
    {
        **_LLAMA.modules,
        **_QK_NORMS,
        "mlp.gate": "layers.moe.router + topk",
        "mlp.experts": f"layers.moe.{' + '.join(_EXPERTS)}",
    },
    _LLAMA.gaps,
    _OUTSIDE,
)


def _sharing(family: Family, shared: str, last: str) -> Family:
    """A family whose tokens all meet the expert `shared`, and whose sum begins behind `last`."""
    matrices = {f"mlp.{shared}.{n}_proj": f"layers.moe.shared_{n}_proj" for n in ("gate", "up", "down")}
    more = {**matrices, f"mlp.{shared}.act_fn": "layers.moe.shared_act_mul"}
    product = Gap(f"mlp.{shared}.up_proj", f"mlp.{shared}.down_proj", "layers.moe.shared_act_mul")
    total = Gap(f"mlp.{last}", "mlp", "layers.moe.shared_sum", inside=True)
    return replace(family, modules={**family.modules, **more}, gaps=(*family.gaps, product, total))


_PHIMOE = replace(
    _MOE,
    modules={("mlp.router" if path == "mlp.gate" else path): name for path, name in _MOE.modules.items()},
)
_GATED = replace(_MOE, modules={**_MOE.modules, "mlp.shared_expert_gate": "layers.moe.shared_gate"})
_QWEN2_MOE = _sharing(_GATED, "shared_expert", "shared_expert_gate")
_SHARED_EXPERTS = _sharing(_MOE, "shared_experts", "shared_experts")
_LATENT = replace(
    _SHARED_EXPERTS,
    modules={
        **_SHARED_EXPERTS.modules,
        **{f"self_attn.{name}": f"layers.attention.{name}" for name in ("q_a_proj", "q_b_proj", "kv_b_proj")},
        "self_attn.kv_a_proj_with_mqa": "layers.attention.kv_a_proj",
        "self_attn.q_a_layernorm": "layers.attention.q_a_norm",
        "self_attn.kv_a_layernorm": "layers.attention.kv_a_norm",
    },
    heads_behind=("layers.attention.rope", "layers.attention.kv_append", "layers.attention.kv_b_proj"),
)
_BOTH_RESIDUALS = "layers.attention_residual + mlp_residual"
_PHI = Family(
    "model.layers",
    {
        **{f"self_attn.{n}_proj": f"layers.attention.{n}_proj" for n in "qkv"},
        "self_attn.dense": "layers.attention.o_proj",
        "mlp.fc1": "layers.mlp.up_proj",
        "mlp.activation_fn": "layers.mlp.act_mul",
        "mlp.fc2": "layers.mlp.down_proj",
        "input_layernorm": "layers.attention_norm",
    },
    (Gap("mlp", "", _BOTH_RESIDUALS),),
    {"model.embed_tokens": "embedding", "model.final_layernorm": "final_norm", "lm_head": "lm_head"},
    heads_behind=("layers.attention.rope",),  # which rotates a part of each head
)
_NEOX = Family(
    "gpt_neox.layers",
    {
        "attention.query_key_value": "layers.attention.qkv_proj",
        "attention.dense": "layers.attention.o_proj",
        "mlp.dense_h_to_4h": "layers.mlp.up_proj",
        "mlp.act": "layers.mlp.act_mul",
        "mlp.dense_4h_to_h": "layers.mlp.down_proj",
        "input_layernorm": "layers.attention_norm",
        "post_attention_layernorm": "layers.mlp_norm",
    },
    (Gap("mlp", "", _BOTH_RESIDUALS),),
    {
        "gpt_neox.embed_in": "embedding",
        "gpt_neox.final_layer_norm": "final_norm",
        "lm_head": "lm_head",
    },
)

_BLOOM = Family(
    "transformer.h",
    {
        "self_attention.query_key_value": "layers.attention.qkv_proj",
        "self_attention.dense": "layers.attention.o_proj",
        "mlp.dense_h_to_4h": "layers.mlp.up_proj",
        "mlp.gelu_impl": "layers.mlp.act_mul",
        "mlp.dense_4h_to_h": "layers.mlp.down_proj",
        "input_layernorm": "layers.attention_norm",
        "post_attention_layernorm": "layers.mlp_norm",
    },
    (
        Gap("self_attention.dense", "self_attention", "layers.attention_residual", inside=True),
        Gap("mlp.dense_4h_to_h", "mlp", "layers.mlp_residual", inside=True),
    ),
    {
        "transformer.word_embeddings": "embedding",
        "transformer.word_embeddings_layernorm": "embedding_norm",
        "transformer.ln_f": "final_norm",
        "lm_head": "lm_head",
    },
    attends_until="self_attention.dense",
)
_MPT = Family(
    "transformer.blocks",
    {
        "attn.Wqkv": "layers.attention.qkv_proj",
        "attn.out_proj": "layers.attention.o_proj",
        "ffn.up_proj": "layers.mlp.up_proj",
        "ffn.act": "layers.mlp.act_mul",
        "ffn.down_proj": "layers.mlp.down_proj",
        "norm_1": "layers.attention_norm",
        "norm_2": "layers.mlp_norm",
    },
    (
        Gap("attn", "norm_2", "layers.attention_residual"),
        Gap("ffn.down_proj", "ffn", "layers.mlp_residual", inside=True),
    ),
    {"transformer.wte": "embedding", "transformer.norm_f": "final_norm", "lm_head": "lm_head"},
    attends_until="attn.out_proj",
)
_GPTJ = Family(
    "transformer.h",
    {
        **{f"attn.{n}_proj": f"layers.attention.{n}_proj" for n in "qkv"},
        "attn.out_proj": "layers.attention.o_proj",
        "mlp.fc_in": "layers.mlp.up_proj",
        "mlp.act": "layers.mlp.act_mul",
        "mlp.fc_out": "layers.mlp.down_proj",
        "ln_1": "layers.attention_norm",
    },
    (Gap("mlp", "", _BOTH_RESIDUALS),),
    {"transformer.wte": "embedding", "transformer.ln_f": "final_norm", "lm_head": "lm_head"},
    attends_until="attn.out_proj",
)
_FALCON = Family(
    "transformer.h",
    {
        "self_attention.query_key_value": "layers.attention.qkv_proj",
        "self_attention.dense": "layers.attention.o_proj",
        "mlp.dense_h_to_4h": "layers.mlp.up_proj",
        "mlp.act": "layers.mlp.act_mul",
        "mlp.dense_4h_to_h": "layers.mlp.down_proj",
        "input_layernorm": "layers.attention_norm",
        "ln_attn": "layers.attention_norm",
        "ln_mlp": "layers.mlp_norm",
        "post_attention_layernorm": "layers.mlp_norm",
    },
    (Gap("mlp", "", _BOTH_RESIDUALS),),
    {"transformer.word_embeddings": "embedding", "transformer.ln_f": "final_norm", "lm_head": "lm_head"},
    attends_until="self_attention.dense",
)
# Of a family whose layers stand side by side in most models, those in which they follow each other.
_IN_TURN = {
    "falcon": replace(
        _FALCON,
        gaps=(
            Gap("self_attention", "post_attention_layernorm", "layers.attention_residual"),
            Gap("mlp", "", "layers.mlp_residual"),
        ),
    )
}

_BERT = Family(
    "encoder.layer",
    {
        "attention.self.query": "layers.attention.q_proj",
        "attention.self.key": "layers.attention.k_proj",
        "attention.self.value": "layers.attention.v_proj",
        "attention.output.dense": "layers.attention.o_proj",
        "attention.output.LayerNorm": "layers.attention_stream_norm",
        "intermediate.dense": "layers.mlp.up_proj",
        "intermediate.intermediate_act_fn": "layers.mlp.act_mul",
        "output.dense": "layers.mlp.down_proj",
        "output.LayerNorm": "layers.mlp_stream_norm",
    },
    (
        Gap("attention.output.dense", "attention.output.LayerNorm", "layers.attention_residual"),
        Gap("output.dense", "output.LayerNorm", "layers.mlp_residual"),
    ),
    {
        "embeddings.word_embeddings": "embedding",
        "embeddings.token_type_embeddings": "type_embedding",
        "embeddings.position_embeddings": "position_embedding",
        "embeddings.LayerNorm": "embedding_norm",
        "pooler.dense": "pooler",
        "pooler.activation": "pooler_act",
    },
)

FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma": _LLAMA,
    "qwen3": _QWEN3,
    "phi3": _PHI3,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gpt2": _GPT2,
    "opt": _OPT,
    "phi": _PHI,
    "gpt_neox": _NEOX,
    "bloom": _BLOOM,
    "mpt": _MPT,
    "gptj": _GPTJ,
    "falcon": _FALCON,
    "mixtral": _MOE,
    "olmoe": _MOE,
    "qwen3_moe": _MOE,
    "phimoe": _PHIMOE,
    "gpt_oss": _PHIMOE,
    "qwen2_moe": _QWEN2_MOE,
    "glm4_moe": _SHARED_EXPERTS,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "bert": _BERT,
    "roberta": _BERT,
}


def family(model: Model) -> Family:
    """The parts of a model's family; an InputError lists the known ones."""
    if model.family not in FAMILIES:
        raise InputError(
            f"{model.name} is of family {model.family!r}, whose parts are not known; "
            f"known: {', '.join(FAMILIES)}."
        )
    if model.family in _IN_TURN and not model.layers[0].parallel:
        return _IN_TURN[model.family]
    return FAMILIES[model.family]
