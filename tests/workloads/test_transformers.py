"""The reference implementations of transformers, on the meta device, against our counts: no tolerance.

What torch's FlopCounterMode counts: every matrix product that is dispatched, 2 FLOP per multiply-add.
On the meta device scaled_dot_product_attention is decomposed into two batched products, so that

- attention is the full rectangle of queries x keys, masked pairs included (`causal_exact=False`);
- grouped KV heads are repeated to the query heads first; the product has all query heads, as the
  mathematics has, and the repetition moves bytes but costs no FLOP;
- norms, RoPE, activations and softmax are not matrix products and count nothing.

The vocabulary projection sees the last position only, because `logits_to_keep=1` is passed. Experts run
as `batched_mm`, one product per token and chosen expert: top-k alone is counted, whatever the routing.
Four families have loops of their own: Llama 4 runs all experts on all tokens, which is divided out; DBRX,
Step 3.5 and LongCat-Flash wait for the routing, so that they run small and on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from workloads.blocks import AttentionBlock, MoeBlock
from workloads.catalogue import MODELS, load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.families import (
    alibi,
    block_sparse,
    build,
    dots3,
    gated,
    gemma,
    gpt,
    kin,
    latent,
    llama,
    longcat,
    multimodal,
    parallel,
    varied,
)
from workloads.families.llama import WINDOW_TYPES
from workloads.model import Model
from workloads.operators import Activation
from workloads.phases import Setting, Step, decode, operators, owners, parameters, prefill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

COUNTER = Setting(convention=convention("flop-counter"))
BATCH = 2
STEPS = {"prefill": prefill(BATCH, 48), "decode": decode(BATCH, 61), "chunk": Step(BATCH, 5, 40)}
SMALLEST = {  # of each family, for a comparison at full depth
    "llama": "SmolLM2-135M",
    "mistral": "Mistral-7B-v0.1",
    "qwen2": "Qwen2.5-0.5B",
    "qwen3": "Qwen3-0.6B",
    "phi3": "Phi-3-mini-3.8B",
    "gemma": "Gemma-2b",
    "gemma2": "Gemma-2-2b",
    "gemma3_text": "Gemma-3-1b",
    "glm": "GLM-4-9B",
    "glm4": "GLM-4-9B-0414",
    "mixtral": "Mixtral-8x7B",
    "phimoe": "Phi-3.5-MoE",
    "olmoe": "OLMoE-1B-7B",
    "qwen2_moe": "Qwen1.5-MoE-A2.7B",
    "qwen3_moe": "Qwen3-30B-A3B",
    "glm4_moe": "GLM-4.5-Air",
    "minimax_m2": "MiniMax-M2.5",
    "gpt_oss": "gpt-oss-20b",
    "gpt2": "GPT-2",
    "opt": "OPT-125m",
    "gptj": "GPT-J-6B",
    "gpt_neox": "Pythia-6.9B",
    "phi": "Phi-1.5",
    "falcon": "Falcon-7B",
    "bloom": "BLOOM-7b1",
    "mpt": "MPT-7B",
    "deepseek_v2": "DeepSeek-V2-Lite",
    "deepseek_v3": "DeepSeek-V3",
    "llama4_text": "Llama-4-Scout-17B-16E",
    "gemma3n_text": "Gemma-3n-E2B",
    "gemma4_text": "Gemma-4-E2B",
}
# Of these vLLM has code, and tests/workloads/test_models.py published counts.
VLLM_ALONE = {"deepseek", "internlm2", "bailing_moe", "bailing_moe_v2", "minicpm", "orion"}
FAMILIES = {
    *llama.FAMILY,
    *kin.FAMILY,
    *multimodal.FAMILY,
    *gemma.FAMILY,
    *gpt.FAMILY,
    *parallel.FAMILY,
    *alibi.FAMILY,
    *latent.FAMILY,
    *varied.FAMILY,
    *gated.FAMILY,
    *dots3.FAMILY,
    *block_sparse.FAMILY,
    *longcat.FAMILY,
} - {"nemotron-nas", "mobilellm", *VLLM_ALONE}  # which transformers has not
LOOPS = {"dbrx", "step3p5", "longcat_flash"}
ON_META = sorted(FAMILIES - LOOPS)
ALIASES = {  # model types of the same code in other libraries
    "kimi_k2": "deepseek_v3",
    "mimo": "qwen2",
    "phi4mm": "phi4_multimodal",
    "ernie4_5_moe_vl": "ernie4_5_vl_moe_text",
    "mimo_v2": "mimo_v2_flash",
    **dict.fromkeys(("minimax_m3", "minimax_m3_text"), "minimax_m3_vl_text"),
}
# SDPA knows no soft-capping (Gemma 2), no sinks (gpt-oss), no bias of positions; GPT-J never used it;
# on a CPU the counter does not know SDPA's kernel.
EAGER = {
    "hy_v4",
    "granite_swa",
    "granitemoe_swa",
    "flint",
    "mimo_v2_flash",
    "gemma2",
    "vaultgemma",
    "gpt_oss",
    "bloom",
    "mpt",
    "gptj",
    "gpt_neo",
    "xglm",
}


UNNAMED = {
    "granite4_vision_text": ("granite4_vision", "Granite4VisionTextModel"),
    "paddleocr_vl_text": ("paddleocr_vl", "PaddleOCRTextModel"),
    "step3p5": ("step3p7", "Step3p7TextModel"),
    "cosmos3_edge_text": ("cosmos3_edge", "Cosmos3EdgeTextModel"),
    "deepseek_ocr2_text": ("deepseek_ocr2", "DeepseekOcr2TextModel"),
    "muse_glimmer_text": ("muse_glimmer", "MuseGlimmerTextModel"),
    "muse_spark_text": ("muse_spark", "MuseSparkTextModel"),
    "ernie4_5_vl_moe_text": ("ernie4_5_vl_moe", "Ernie4_5_VLMoeTextModel"),
    "molmo2_text": ("molmo2", "Molmo2TextModel"),
    "voxtral_realtime_text": ("voxtral_realtime", "VoxtralRealtimeTextModel"),
    "emu3_text_model": ("emu3", "Emu3TextModel"),
    "mllama_text_model": ("mllama", "MllamaTextModel"),
    "qwen2_5_omni_text": ("qwen2_5_omni", "Qwen2_5OmniThinkerTextModel"),
    "qwen3_omni_moe_text": ("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
}


def decoder_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Of a multimodal config the decoder's."""
    return dict(fields.get("text_config", fields))


def body_of(config: Any, **how: Any) -> Any:
    """The layers, without the head; some have no entry among the models that configs name."""
    if config.model_type in UNNAMED:
        folder, name = UNNAMED[config.model_type]
        module = import_module(f"transformers.models.{folder}.modeling_{folder}")
        return getattr(module, name)._from_config(config, **how)
    return transformers.AutoModel.from_config(config, **how)


class Decoder(torch.nn.Module):  # type: ignore[misc]  # torch is optional here
    """The decoder of a model with a vision tower, with the head that transformers gives to the whole."""

    def __init__(self, config: Any, **how: Any) -> None:
        super().__init__()
        self.config, self.model = config, body_of(config, **how)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=how["dtype"])
        if getattr(config, "tie_word_embeddings", False):
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, logits_to_keep: int, **inputs: Any) -> Any:
        if self.config.model_type == "voxtral_realtime_text":  # the delay, as waves
            inputs["t_cond"] = self.lm_head.weight.new_empty(1, self.config.hidden_size)
        return self.lm_head(self.model(**inputs).last_hidden_state[:, -logits_to_keep:])


class HandsOn(torch.nn.Module):  # type: ignore[misc]  # torch is optional here
    """What stands in for towers that a text does not pass."""

    def forward(self, _: Any, embedded: Any, **__: Any) -> Any:
        return embedded


def named_config(fields: dict[str, Any]) -> Any:
    """The config as transformers reads it."""
    rest = {name: value for name, value in fields.items() if name != "model_type"}
    kind = ALIASES.get(fields["model_type"], fields["model_type"])
    return transformers.AutoConfig.for_model(kind, **rest)


def reference(fields: dict[str, Any], device: str = "meta") -> Any:
    """The transformers model of a config: on the meta device shapes only, no weights."""
    config = named_config(fields)
    kind = config.model_type
    config._experts_implementation = "batched_mm"
    whole = type(config) in transformers.AutoModelForCausalLM._model_mapping
    build = transformers.AutoModelForCausalLM.from_config if whole else Decoder
    with torch.device(device):
        model = build(
            config,
            attn_implementation="eager" if kind in EAGER or device == "cpu" else "sdpa",
            dtype=torch.bfloat16,
        )
    for module in model.modules():
        if hasattr(module, "vision_moe"):  # ERNIE's experts of images
            del module.vision_moe
        if type(module).__name__ == "MllamaCrossAttentionDecoderLayer":  # which texts skip
            module._modules.clear()
            module._parameters.clear()
        if hasattr(module, "embed_tokens_extend"):  # Phi-4's towers, which hand texts on
            module.embed_tokens_extend = HandsOn()
    if hasattr(config, "num_kv_shared_layers"):  # else layers that borrow keys run for the last position
        model.config.output_hidden_states = True
    return model.eval().requires_grad_(False)


def ours(fields: dict[str, Any]) -> Model:
    return build(Config(fields, "test"), "test")


def dispatched_flops(network: Any, step: Step) -> int:
    """What FlopCounterMode counts of one step; what is cached before it is computed uncounted."""
    from torch.utils.flop_counter import FlopCounterMode

    before, cache = int(step.kv_len - step.q_len), transformers.DynamicCache(config=network.config)
    device = next(network.parameters()).device

    def run(length: int) -> None:
        tokens = torch.zeros(BATCH, length, dtype=torch.long, device=device)
        network(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)

    with torch.no_grad():
        if before:
            run(before)
        with FlopCounterMode(display=False) as counter:
            run(int(step.q_len))
    return int(counter.get_total_flops())


def counted_flops(model: Model, step: Step) -> int:
    """Ours; where the reference runs all of Llama 4's experts, so many times those of the chosen ones."""
    total = 0.0
    for row in operators(model, step, COUNTER):
        flops = row.count * row.operator.work().matrix_flops
        if model.family == "llama4_text" and ".experts_" in row.name:
            moe = next(b for layer in model.layers for b in layer.blocks if isinstance(b, MoeBlock))
            flops *= moe.experts / moe.top_k
        total += flops
    return int(total)


def shallow(fields: dict[str, Any]) -> dict[str, Any]:
    """The config with just enough layers to show every kind of layer."""
    patterns = {"gemma2": 2, "gemma3_text": 6, "gpt_oss": 2, "mimo_v2_flash": 2, "llama4_text": 4}
    layers = patterns.get(fields["model_type"], 12 if fields["model_type"] in gemma.FAMILY else 1)
    layers += fields.get("first_k_dense_replace", 0)
    name = next(name for name in ("n_layer", "n_layers", "num_hidden_layers") if name in fields)
    fewer = {**fields, name: min(layers, fields[name])}
    lists = ("layer_types", "mlp_layer_types", "indexer_types", "moe_layer_freq", "sparse_attention_freq")
    lists += ("sparse_disable_index_value",)
    inside = dict(fields.get("sparse_attention_config") or {})
    for listed in (*lists, "intermediate_size", "activation_sparsity_pattern"):
        for stated in (fewer, inside):
            if isinstance(stated.get(listed), list):
                stated[listed] = stated[listed][: fewer[name]]
    if inside:
        fewer["sparse_attention_config"] = inside
    if fewer.get("num_kv_shared_layers"):
        fewer["num_kv_shared_layers"] = 6
    return fewer


def assert_same(fields: dict[str, Any], *steps: str, device: str = "meta") -> None:
    model, network = ours(fields), reference(fields, device)
    assert sum(p.numel() for p in network.parameters()) == parameters(model)
    for name in steps:
        assert dispatched_flops(network, STEPS[name]) == counted_flops(model, STEPS[name]), name


SHIPPED = [path for path in MODELS if load_model(path).model.family in ON_META]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_parameters_and_flops_of_every_shipped_config(path: Path) -> None:
    """Real widths, heads and vocabularies; each kind of layer once, because the others repeat them."""
    assert_same(shallow(decoder_of(load_model(path).config)), "prefill", "decode")


# Sixty layers of latent attention once: the others of DeepSeek's kind repeat it and cost a minute each.
NO_MODEL = {
    "mimo_v2_flash",
    "mimo_v2",
    "kimi_k2",
    "deepseek_v32",
    "glm_moe_dsa",
    "mistral4",
    "youtu",
    "minicpm3",
    "hy_v4",
    "axk1",
    "axk2",
    "mistral_large4_text",
}
# Of these no config is shipped.
NO_MODEL |= {
    "gemma4_unified_text",
    "glm4_moe_lite",
    "vaultgemma",
    "gpt_bigcode",
    "gpt_neo",
    "xglm",
    *kin.FAMILY,
    *multimodal.FAMILY,
    *gated.FAMILY,
    *dots3.FAMILY,
    *block_sparse.FAMILY,
}
AT_FULL_DEPTH = [family for family in ON_META if family not in NO_MODEL]


@pytest.mark.parametrize("family", AT_FULL_DEPTH)
def test_parameters_and_flops_of_a_whole_model(family: str) -> None:
    fields = decoder_of(load_model(SMALLEST[family]).config)
    assert fields["model_type"] == family
    assert_same(fields, "decode")


SIZES = {"hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 101}
POSITIONS = {"max_position_embeddings": 128}
EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 3}
LATENT = {
    "q_lora_rank": 21,
    "kv_lora_rank": 23,
    "qk_nope_head_dim": 14,
    "qk_rope_head_dim": 10,
    "v_head_dim": 13,
    "moe_intermediate_size": 35,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 6,
}
GATED = {"head_dim": 10, "num_experts_per_tok": 3, "moe_intermediate_size": 35}
BLOCKS = {
    **{"head_dim": 10, "rotary_dim": 6, "num_local_experts": 9, "num_experts_per_tok": 3},
    **{"dense_intermediate_size": 81, "shared_intermediate_size": 33},
}
AS_AUTHORS = {
    "moe_layer_freq": [0, 1],
    "sparse_attention_config": {
        **{"sparse_attention_freq": [0, 1], "sparse_num_index_heads": 2, "sparse_index_dim": 18},
        **{"sparse_block_size": 8, "sparse_topk_blocks": 2, "sparse_local_block": 1},
    },
}
AS_TRANSFORMERS = {
    **{"index_n_heads": 2, "index_head_dim": 18, "index_block_size": 8, "index_topk_blocks": 2},
    "layer_types": ["full_attention", "minimax_m3_sparse"],
    "mlp_layer_types": ["dense", "sparse"],
}
INDEX = {"index_n_heads": 3, "index_head_dim": 18, "index_topk": 7}


def in_sections(*lengths: int) -> dict[str, Any]:
    """Rotation by time, height and width, which share the halves of a head."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(lengths)}}


BORROWED = {  # layers that see a window, all, a window, all: the last two borrow
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 11,
    "head_dim": 10,
}
OWN: dict[str, dict[str, Any]] = {  # what a family's smallest config needs beside, or instead
    "gpt2": {"n_embd": 60, "n_layer": 2, "n_head": 6, "vocab_size": 101, "n_positions": 128},
    "gpt_bigcode": {"n_embd": 60, "n_layer": 2, "n_head": 6, "vocab_size": 101, "n_positions": 128},
    "persimmon": {**SIZES, **POSITIONS, "num_attention_heads": 3, "intermediate_size": 77},
    "gptj": {"n_embd": 60, "n_layer": 2, "n_head": 6, "vocab_size": 101, "n_positions": 128, "rotary_dim": 4},
    "opt": {**SIZES, **POSITIONS, "ffn_dim": 77, "word_embed_proj_dim": 60},
    "gpt_neo": {
        **POSITIONS,
        **{"hidden_size": 60, "num_layers": 2, "num_heads": 6, "vocab_size": 101},
        "attention_types": [[["global", "local"], 1]],
    },
    "xglm": {
        **POSITIONS,
        **{"d_model": 60, "num_layers": 2, "attention_heads": 6, "ffn_dim": 77, "vocab_size": 101},
    },
    "bloom": {"hidden_size": 60, "n_layer": 2, "n_head": 6, "vocab_size": 101},
    "mpt": {"d_model": 60, "n_layers": 2, "n_heads": 6, "vocab_size": 101, "max_seq_len": 128},
    "falcon": {**SIZES, **POSITIONS},
    "gpt_neox": {**SIZES, **POSITIONS, "intermediate_size": 77},
    "phi": {"num_attention_heads": 3, "num_key_value_heads": 3},
    "mixtral": EXPERTS,
    "phimoe": {**EXPERTS, "num_experts_per_tok": 2},  # which its router always takes
    "minimax_m2": {**EXPERTS, "head_dim": 10},
    "gpt_oss": {**EXPERTS, "head_dim": 10},
    "olmoe": {"num_experts": 5, "num_experts_per_tok": 3},
    "qwen2_moe": {"num_experts": 5, "moe_intermediate_size": 35, "shared_expert_intermediate_size": 33},
    "qwen3_moe": {"num_experts": 9, "moe_intermediate_size": 35},
    "glm4_moe": {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 35},
    "granitemoe_swa": {**EXPERTS, "shared_intermediate_size": 33},
    "granitemoe": EXPERTS,
    "granitemoeshared": {**EXPERTS, "shared_intermediate_size": 33},
    "ministral": {"head_dim": 10},
    "ministral3": {"head_dim": 10},
    "seed_oss": {"head_dim": 10},
    "helium": {"head_dim": 10},
    "nemotron": {"head_dim": 10},
    "ernie4_5": {"head_dim": 10},
    "ernie4_5_moe": {"moe_num_experts": 5, "moe_k": 3, "moe_intermediate_size": 35},
    "hunyuan_v1_dense": {"head_dim": 10},
    "hunyuan_v1_moe": {"head_dim": 10, "num_experts": 5, "moe_topk": 3},
    "dots1": {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 35,
        "first_k_dense_replace": 1,
    },
    "flex_olmo": {"num_experts": 5, "num_experts_per_tok": 3},
    "llama4_text": {**EXPERTS, "intermediate_size_mlp": 81, "head_dim": 10},
    "gemma3n_text": {**BORROWED, "laurel_rank": 9, "vocab_size_per_layer_input": 97},
    "gemma4_text": {**BORROWED, "global_head_dim": 16, "vocab_size_per_layer_input": 97},
    "gemma4_unified_text": {**BORROWED, "global_head_dim": 16},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "kimi_k2": LATENT,
    "deepseek_v32": {**LATENT, **INDEX},
    "glm_moe_dsa": {**LATENT, **INDEX},
    "glm4_moe_lite": LATENT,
    "internlm3": {"head_dim": 10},
    "iquestcoder": {"head_dim": 10},
    "cwm": {"head_dim": 10},
    "hy_v3": {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 35, "head_dim": 10},
    "exaone_moe": {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 35},
    "solar_open": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 35,
        "head_dim": 10,
    },
    "qwen2_vl_text": in_sections(2, 1, 2),
    "qwen2_5_vl_text": in_sections(2, 1, 2),
    "qwen2_5_omni_text": in_sections(2, 1, 2),
    "hunyuan_vl_text": {"head_dim": 10, **in_sections(2, 1, 1, 1)},
    "paddleocr_vl_text": {"head_dim": 10, **in_sections(2, 1, 2)},
    "glm_ocr_text": {"head_dim": 10, **in_sections(2, 1, 2)},
    "qwen3_omni_moe_text": {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 35},
    "glm4v_text": in_sections(2, 1, 2),
    "qwen3_vl_text": {"head_dim": 10},
    "qwen3_vl_moe_text": {"num_local_experts": 9, "num_experts_per_tok": 3, "moe_intermediate_size": 35},
    "glm4v_moe_text": {
        **in_sections(1, 1, 1),
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 35,
    },
    "mimo_v2_flash": {
        **{"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 35},
        **{"head_dim": 10, "v_head_dim": 6, "num_key_value_heads": 3},
    },
    "mimo_v2": {
        **{"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 35},
        **{"head_dim": 10, "v_head_dim": 6, "num_key_value_heads": 3},
    },
    "mistral4": LATENT,
    "youtu": LATENT,
    "minicpm3": LATENT,
    "hy_v4": {**LATENT, **INDEX},
    "axk1": LATENT,
    "dots3_note_text": {
        **{**LATENT, **INDEX, "num_hidden_layers": 4, "shared_experts_intermediate_size": 33},
        **{"swa_num_attention_heads": 5, "swa_num_key_value_heads": 5, "swa_q_lora_rank": 17},
        **{"swa_kv_lora_rank": 19, "swa_head_dim": 16, "swa_qk_nope_head_dim": 10, "swa_v_head_dim": 9},
    },
    "axk2": {**LATENT, **INDEX, "gated_norm_rank": 9},
    "mistral_large4_text": {**LATENT, **INDEX},
    "cohere2_moe": {"num_experts": 5, "num_experts_per_tok": 3, "head_dim": 10},
    "aria_text": {"moe_num_experts": 5, "moe_topk": 3},
    "flint": {**GATED, "num_experts": 5, "shared_expert_intermediate_size": 33, "mlp_only_layers": [0]},
    "kolibri1": {**GATED, "num_experts": 5, "shared_expert_intermediate_size": 33},
    "cosmos3_edge_text": {"head_dim": 10, **in_sections(2, 1, 2)},
    "deepseek_ocr2_text": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 35,
        "mlp_layer_types": ["dense", "sparse"],
    },
    **{
        family: {"moe_num_experts": 5, "moe_k": 3, "moe_intermediate_size": [35, 33], **in_sections(1, 1, 3)}
        for family in ("ernie4_5_vl_moe_text", "ernie4_5_moe_vl")
    },
    "molmo2_text": {"head_dim": 10},
    "mllama_text_model": {"num_hidden_layers": 4, "cross_attention_layers": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": None,
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 2]},
        }
    },
    "mellum": {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 35, "head_dim": 10},
    "afmoe": {**GATED, "num_experts": 5},
    "beam": {**GATED, "num_experts": 8, "n_group": 2, "topk_group": 2},
    "muse_glimmer_text": {"head_dim": 10},
    "muse_spark_text": {**GATED, "num_local_experts": 5, "moe_hidden_size": 33},
    "laguna": {**GATED, "num_experts": 5, "layer_types": list(WINDOW_TYPES)},
    "step3p5": {
        **{**GATED, "n_routed_experts": 9, "share_expert_dim": 33, "num_sliding_attention_heads": 8},
        **{"num_hidden_layers": 4, "layer_types": [*WINDOW_TYPES] * 2, "sliding_window": 7},
    },
    "minimax_m3": {**BLOCKS, **AS_AUTHORS},
    "minimax_m3_text": {**BLOCKS, **AS_AUTHORS},
    "minimax_m3_vl_text": {**BLOCKS, **AS_TRANSFORMERS},
    "longcat_flash": {
        **{"hidden_size": 60, "num_layers": 2, "num_attention_heads": 6, "vocab_size": 101, **POSITIONS},
        **{name: LATENT[name] for name in ("q_lora_rank", "kv_lora_rank", "n_routed_experts")},
        **{name: LATENT[name] for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
        **{"head_dim": LATENT["qk_rope_head_dim"], "ffn_hidden_size": 77, "expert_ffn_hidden_size": 35},
        **{"moe_topk": 3, "zero_expert_num": 4},
    },
    "dbrx": {
        "d_model": 60,
        "n_layers": 2,
        "n_heads": 6,
        "vocab_size": 101,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 60, "ffn_hidden_size": 35, "moe_num_experts": 5, "moe_top_k": 3},
    },
}
WHOLE = {"gpt2", "gptj", "opt", "bloom", "mpt", "falcon", "gpt_neox", "dbrx"}  # whose own fields are all
WHOLE |= {"gpt_bigcode", "persimmon", "gpt_neo", "xglm", "longcat_flash"}
LLAMAS = sorted(set(llama.FAMILY) | {"llama4_text"})
WITH_BIAS = {
    "llama",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "qwen3_moe",
    "glm4_moe",
    "olmoe",
    "llama4_text",
}


def small(family: str, **changes: Any) -> dict[str, Any]:
    """A config with prime-like sizes, so that a swapped dimension cannot cancel."""
    base: dict[str, Any] = {}
    if family not in WHOLE:
        base = {**SIZES, **POSITIONS, "num_key_value_heads": 2, "intermediate_size": 77}
        base |= {"pad_token_id": 0}  # the default lies beyond so small a vocabulary
    return {"model_type": family, **base, **OWN.get(family, {}), **changes}


LONGER = ("molmo2_text", "mllama_text_model")  # tables than the vocabulary is, so that heads are others
SPARSE_BY_NAME = ("glm4_moe_lite", "hy_v4")  # whose configs heed no first_k_dense_replace
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in ON_META),
    *(
        (family, {"tie_word_embeddings": tied})
        for family in ON_META
        for tied in (False, family not in LONGER)
    ),
    *((family, {"num_key_value_heads": heads}) for family in LLAMAS for heads in (1, 6)),
    *((family, {"head_dim": 22}) for family in LLAMAS if family != "olmoe"),
    *((family, {"num_hidden_layers": 13}) for family in ("gemma2", "gemma3_text", "gpt_oss")),
    *((family, {"attention_bias": True}) for family in LLAMAS if family in WITH_BIAS),
    *((family, {"attention_bias": True}) for family in latent.FAMILY),
    *((family, {"attention_bias": False}) for family in ("gpt_oss", "glm", "glm4", "gpt_neox")),
    *((family, {"q_lora_rank": None}) for family in ("deepseek_v2", "deepseek_v3")),
    *((family, {"n_shared_experts": 2}) for family in latent.FAMILY),
    *((family, {"first_k_dense_replace": 0}) for family in latent.FAMILY if family not in SPARSE_BY_NAME),
    *((family, {"num_kv_shared_layers": 0}) for family in gemma.FAMILY),
    *((family, {"attention_bias": True}) for family in gemma.FAMILY),
    ("gemma3n_text", {"num_hidden_layers": 12, "layer_types": None, "num_kv_shared_layers": 6}),
    (
        "gemma3n_text",
        {"intermediate_size": [77, 81, 83, 85], "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]},
    ),
    ("gemma3n_text", {"altup_num_inputs": 3}),
    ("gemma4_text", {"num_hidden_layers": 7, "layer_types": None, "num_kv_shared_layers": 0}),
    ("gemma4_text", {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    ("gemma4_text", {"use_double_wide_mlp": True}),
    ("gemma4_text", {"hidden_size_per_layer_input": 0}),
    (
        "gemma4_text",
        {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 3, "moe_intermediate_size": 35},
    ),
    ("gemma4_text", {"per_layer_config": {"1": {"head_dim": 18}, "3": {"head_dim": 18}}}),
    ("glm_moe_dsa", {"num_hidden_layers": 4, "indexer_types": ["full", "shared", "shared", "full"]}),
    ("glm_moe_dsa", {"num_hidden_layers": 6, "index_topk_freq": 2, "index_skip_topk_offset": 3}),
    ("glm_moe_dsa", {"num_hidden_layers": 3, "index_topk_pattern": "FSF"}),
    ("hy_v4", {"num_hidden_layers": 7, "hc_mult": 3}),
    ("dots3_note_text", {"attention_bias": True, "use_sliding_window": False, "n_shared_experts": 2}),
    ("dots3_note_text", {"use_dsa": False, "first_k_dense_replace": 2}),
    ("dots3_note_text", {"moe_layer_freq": [1, 1, 0, 1]}),
    ("mimo_v2_flash", {"num_hidden_layers": 7}),
    ("mimo_v2_flash", {"layer_types": ["sliding_attention", "full_attention"]}),
    *((family, {"layer_rope_theta": [0, 1e4]}) for family in ("granite_swa", "granitemoe_swa")),
    ("hyperclovax", {"use_post_norm": False, "attention_bias": True, "mlp_bias": True}),
    ("minicpm3", dict.fromkeys(("q_lora_rank", "v_head_dim")) | {"mlp_bias": True}),
    ("mistral_large4_text", {"num_hidden_layers": 5, "kv_source_layers": [0, 0, 2, 3, 3]}),
    ("mistral_large4_text", {"indexer_types": ["full", "shared"], "no_rope_layers": [0, 1]}),
    ("molmo2_text", {"qk_norm_type": "olmo", "norm_after": True, "attention_bias": True}),
    ("flint", {"num_hidden_layers": 7, "attention_bias": True}),
    ("kolibri1", {"num_hidden_layers": 7}),
    ("deepseek_ocr2_text", {"mlp_bias": True, "attention_bias": True, "n_shared_experts": 1}),
    ("ernie4_5_vl_moe_text", {"mlp_layer_types": ["sparse", "dense"], "use_bias": True}),
    ("emu3_text_model", {"attention_bias": True, "mlp_bias": True}),
    ("cohere_compass_text", {"layer_types": list(WINDOW_TYPES)}),
    ("cohere2_moe", {"first_k_dense_replace": 1, "num_shared_experts": 2, "rms_norm_eps": 1e-5}),
    ("cohere2_moe", {"mlp_layer_types": ["dense", "sparse"], "prefix_dense_intermediate_size": 81}),
    ("aria_text", {"attention_bias": True, "mlp_bias": True, "moe_num_shared_experts": 1}),
    ("mellum", {"mlp_layer_types": ["sparse", "dense"], "layer_types": list(WINDOW_TYPES)}),
    *((family, {"attention_bias": True}) for family in ("bitnet", "nanochat", "mellum")),
    ("afmoe", {"num_hidden_layers": 5, "num_dense_layers": 2, "num_shared_experts": 1}),
    *(
        (family, {"attention_bias": True})
        for family in ("afmoe", "beam", "muse_glimmer_text", "muse_spark_text")
    ),
    ("beam", {"num_hidden_layers": 7, "mlp_layer_types": ["dense"] + ["sparse"] * 6}),
    ("muse_glimmer_text", {"num_hidden_layers": 5}),
    ("muse_spark_text", {"num_hidden_layers": 5, "mlp_layer_types": ["dense"] + ["sparse"] * 4}),
    ("laguna", {"num_attention_heads_per_layer": [6, 8], "gating": "per-element"}),
    ("laguna", {"mlp_layer_types": ["sparse", "dense"], "layer_types": None, "attention_bias": True}),
    ("minimax_m3_vl_text", {"layer_types": None, "mlp_layer_types": None}),
    ("gpt_bigcode", {"multi_query": False}),
    ("persimmon", {"qk_layernorm": False}),
    ("jais2", {"attention_bias": False}),
    ("jais2", {"mlp_bias": False}),
    ("apertus", {"attention_bias": True, "hidden_act": "relu2"}),
    ("cwm", {"mlp_bias": True}),
    ("diffllama", {"attention_bias": True}),
    ("gpt_neo", {"intermediate_size": 77, "attention_types": [[["global"], 2]]}),
    ("llama", {"mlp_bias": True}),
    *((family, {"mlp_bias": True}) for family in ("deepseek_v2", "deepseek_v3", "hy_v3")),
    ("opt", {"enable_bias": False}),
    ("opt", {"layer_norm_elementwise_affine": False}),
    ("gpt2", {"n_inner": 77}),
    ("gptj", {"n_inner": 77}),
    ("phi3", {"partial_rotary_factor": 0.5, "head_dim": 20}),
    ("phi", {"qk_layernorm": True}),
    ("phimoe", {"lm_head_bias": True, "attention_bias": True}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("glm4_moe", {"use_qk_norm": True, "first_k_dense_replace": 0}),
    ("qwen2_moe", {"qkv_bias": False}),
    ("qwen2_moe", {"num_hidden_layers": 4, "decoder_sparse_step": 2}),
    ("qwen3_moe", {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    ("llama4_text", {"num_hidden_layers": 5, "interleave_moe_layer_step": 2, "use_qk_norm": False}),
    ("llama4_text", {"num_hidden_layers": 3, "moe_layers": [1], "no_rope_layers": [1, 0, 0]}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1}),
    ("falcon", {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}),
    ("falcon", {"ffn_hidden_size": 77}),
    ("mpt", {"expansion_ratio": 4}),
    *(
        (family, {"num_key_value_heads": heads})
        for family in sorted(
            {*kin.FAMILY} - WHOLE - VLLM_ALONE - {"diffllama"}
        )  # whose KV heads are in pairs
        for heads in (1, 6)
    ),
    *((family, {"head_dim": 22}) for family in ("smollm3", "arcee", "cohere2", "ernie4_5", "ministral3")),
    *((family, {"attention_bias": True, "mlp_bias": True}) for family in ("arcee", "granite", "smollm3")),
    *((family, {"attention_bias": True}) for family in ("nemotron", "olmo", "olmo2", "cohere", "dots1")),
    *(
        (family, {"attention_bias": True})
        for family in ("hunyuan_v1_dense", "hunyuan_v1_moe", "granitemoe", "seed_oss")
    ),
    *((family, {"use_bias": True}) for family in ("starcoder2", "ernie4_5", "ernie4_5_moe")),
    ("starcoder2", {"use_bias": False}),
    ("seed_oss", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    ("helium", {"attention_bias": True, "mlp_bias": True}),
    ("nemotron", {"mlp_bias": True}),
    ("cohere", {"use_qk_norm": True}),
    ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
    ("stablelm", {"use_parallel_residual": True}),
    ("granitemoeshared", {"shared_intermediate_size": 0}),
    ("ernie4_5_moe", {"num_hidden_layers": 8, "moe_layer_interval": 2, "moe_num_shared_experts": 0}),
    ("ernie4_5_moe", {"num_hidden_layers": 5, "moe_layer_start_index": 2, "moe_layer_end_index": 3}),
]


@pytest.mark.parametrize(
    ("family", "changes"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default"
)
def test_what_a_config_may_say_or_leave_out(family: str, changes: dict[str, Any]) -> None:
    """Also where the config is silent our defaults are those of the family's reference."""
    assert_same(small(family, **changes), "chunk")


@pytest.mark.parametrize(
    ("family", "changes"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default"
)
def test_a_config_that_transformers_saved_is_read_as_the_one_it_was_made_of(
    family: str, changes: dict[str, Any]
) -> None:
    """But for layers of multi-token prediction, which it states where its class leaves them out."""
    fields = small(family, **changes)
    saved = json.loads(named_config(fields).to_json_string())
    read = ours({**saved, "model_type": family}).stack
    assert replace(read, drafts=0) == replace(ours(fields).stack, drafts=0)


@pytest.mark.parametrize("family", ON_META)
def test_the_activation_is_the_one_that_a_config_names(family: str) -> None:
    """In every layer, expert and shared expert, or in none where the reference heeds no name either."""
    fields = small(family)
    config = reference(fields).config
    names = ("hidden_activation", "activation_function", "activation", "hidden_act")
    named = {**fields, next((name for name in names if getattr(config, name, None)), "hidden_act"): "relu"}
    heeded = any(isinstance(module, torch.nn.ReLU) for module in reference(named).modules())
    unnamed = (".altup.", "gate_mul", "position_scale", "norm_gate", ".condition_")
    rows = [row for row in owners(ours(named)) if not any(part in row.name for part in unnamed)]
    kinds = {row.operator.function for row in rows if isinstance(row.operator, Activation)}
    expected = {"relu", "silu"} if family == "aria_text" else {"relu"}  # whose experts heed none
    assert kinds == expected if heeded else "relu" not in kinds


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in ("ministral", "starcoder2", "olmo3", "exaone4", "cohere2", "dots1")),
        ("cwm", {}),
        ("cohere2_moe", {"first_k_dense_replace": 2, "prefix_dense_sliding_window_pattern": 2}),
        ("granite_swa", {}),
        *((family, {}) for family in ("flint", "kolibri1", "beam", "muse_glimmer_text", "muse_spark_text")),
        ("granitemoe_swa", {"layer_types": [*WINDOW_TYPES, *["full_attention"] * 7]}),
        ("starcoder2", {"sliding_window": 16}),
        ("cohere2", {"sliding_window_pattern": 2}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 16}),
        (
            "smollm3",
            {
                "use_sliding_window": True,
                "sliding_window": 16,
                "layer_types": [*WINDOW_TYPES, *["full_attention"] * 7],
            },
        ),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 16}),
        ("dots1", {"max_window_layers": 3}),
    ],
)
def test_windows_stand_where_the_reference_has_them(family: str, changes: dict[str, Any]) -> None:
    fields = small(family, **changes, num_hidden_layers=9)
    config = reference(fields).config
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * 9
    window = config.sliding_window
    expected = [window if kind == "sliding_attention" else None for kind in kinds]
    assert [layer.find(AttentionBlock).window for layer in ours(fields).layers] == expected


def test_the_counter_sees_the_square_and_the_floor_the_triangle() -> None:
    """What separates the conventions is the masked half: T (T - 1) / 2 pairs per head."""
    fields = small("llama")
    model, step = ours(fields), STEPS["prefill"]
    exact = Setting(convention=convention("fused"))
    triangle = sum(row.count * row.operator.work().matrix_flops for row in operators(model, step, exact))
    tokens, attention = int(step.q_len), model.layers[0].find(AttentionBlock)
    masked = tokens * (tokens - 1) // 2
    difference = 4 * BATCH * len(model.layers) * attention.heads * attention.head_dim * masked
    assert dispatched_flops(reference(fields), step) - triangle == difference


def test_a_head_on_all_positions_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is sharp: without `logits_to_keep` the reference computes (T - 1) rows more."""
    fields = small("llama")
    model, network, step = ours(fields), reference(fields), STEPS["prefill"]
    forward: Callable[..., Any] = network.forward
    monkeypatch.setattr(network, "forward", lambda logits_to_keep, **kwargs: forward(**kwargs))
    more = 2 * BATCH * (int(step.q_len) - 1) * model.hidden * model.vocabulary
    assert dispatched_flops(network, step) - counted_flops(model, step) == more


STEPS_OF_LAYERS: list[dict[str, Any]] = [
    {},
    {"mlp_layer_types": ["sparse", "dense", "dense", "sparse"], "attention_bias": True, "mlp_bias": True},
    {
        "num_nextn_predict_layers": 1,
        "num_attention_groups": 2,
        "num_sliding_attention_heads": None,
        "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 10},
        "layer_types": [*WINDOW_TYPES, *WINDOW_TYPES, WINDOW_TYPES[0]],
        "moe_layers_enum": "1,3",
        "partial_rotary_factors": [1.0, 0.6, 1.0, 0.6, 1.0],
    },
]


@pytest.mark.parametrize("step", list(STEPS))
def test_dbrx_where_its_routing_is_known(step: str) -> None:
    """Its experts' loop asks which tokens came: a small model that runs, each token through 3 of 5."""
    torch.manual_seed(0)
    assert_same(small("dbrx"), step, device="cpu")


def test_dbrx_has_its_parameters() -> None:
    fields = shallow(load_model("DBRX").config)
    assert sum(p.numel() for p in reference(fields).parameters()) == parameters(ours(fields))


@pytest.mark.parametrize("changes", STEPS_OF_LAYERS, ids=lambda changes: "-".join(changes) or "default")
def test_step_where_its_routing_is_known(changes: dict[str, Any]) -> None:
    """As its authors write a config, and as transformers does."""
    torch.manual_seed(0)
    assert_same(small("step3p5", **changes), *STEPS, device="cpu")


@pytest.mark.parametrize("step", list(STEPS))
def test_longcat_but_for_what_its_router_happens_to_choose(step: str) -> None:
    """Its class makes the first matrix of experts that have none; 3 of 12 choices are 2 of the 8 others."""
    torch.manual_seed(0)
    fields = small("longcat_flash")
    model, network = ours(fields), reference(fields, "cpu")
    unused = sum(p[8:].numel() for name, p in network.named_parameters() if name.endswith("gate_up_proj"))
    assert sum(p.numel() for p in network.parameters()) - unused == parameters(model)
    chosen: list[int] = []
    for layer in network.model.layers:
        layer.mlp.router.register_forward_hook(lambda _, __, out: chosen.append(int((out[2] < 8).sum())))
    seen, sizes = dispatched_flops(network, STEPS[step]), STEPS[step]
    mean, layers = BATCH * int(sizes.q_len) * 2, len(model.layers)
    surplus = sum(chosen[-layers:]) - mean * layers
    assert seen - counted_flops(model, sizes) == surplus * 2 * 3 * 60 * 35
