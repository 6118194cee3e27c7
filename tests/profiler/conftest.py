"""Models of a few kilobytes, the command line in this process, and a device file measured in seconds."""

from __future__ import annotations

import gc
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click import Command
from click.testing import CliRunner

from profiler.subject import Subject, load_subject
from specfiles.errors import InputError
from workloads.catalogue import Loaded
from workloads.config import Config
from workloads.families import build
from workloads.families.encoders import ROBERTAS

LLAMA = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "pad_token_id": 0,  # the defaults of some families lie beyond so small a vocabulary
}
EXPERTS = {"num_experts": 5, "num_local_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 5,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 6,
}
INDEX = {"index_n_heads": 4, "index_head_dim": 8, "index_topk": 6}
DELTA = {
    "head_dim": 8,
    "full_attention_interval": 3,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
T5 = {
    "d_model": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 6,
    "d_kv": 8,
    "d_ff": 80,
    "vocab_size": 101,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
BORROWING = {  # both kinds of layer, and of each one that borrows keys and values
    **LLAMA,
    "num_hidden_layers": 6,
    "head_dim": 8,
    "global_head_dim": 12,
    "num_kv_shared_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "use_double_wide_mlp": True,
}
SINKS = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
GATED = {**LLAMA, **EXPERTS, **SINKS, "head_dim": 8}
# Whose default heads are wider than a tiny model has place for.
NARROW = (
    "ministral",
    "ministral3",
    "seed_oss",
    "helium",
    "nemotron",
    "ernie4_5",
    "hunyuan_v1_dense",
    "glm",
    "glm4",
    "internlm3",
    "iquestcoder",
    "cwm",
    "vaultgemma",
)
ENTRIES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}
GPT = {"n_embd": 48, "n_layer": 3, "n_head": 6, "vocab_size": 101, "n_positions": 128}
FIELDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gpt2", "gpt_bigcode"), GPT),
    "opt": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "ffn_dim": 80,
        "vocab_size": 101,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 48,
    },
    "gpt_neo": {  # both kinds of layer
        "hidden_size": 48,
        "num_layers": 4,
        "attention_types": [[["global", "local"], 2]],
        "num_heads": 6,
        "vocab_size": 101,
        "max_position_embeddings": 128,
    },
    "xglm": {
        "d_model": 48,
        "num_layers": 3,
        "attention_heads": 6,
        "ffn_dim": 80,
        "vocab_size": 101,
        "max_position_embeddings": 128,
    },
    "bloom": {"hidden_size": 48, "n_layer": 3, "n_head": 6, "vocab_size": 101, "seq_length": 128},
    "mpt": {"d_model": 48, "n_layers": 3, "n_heads": 6, "vocab_size": 101, "max_seq_len": 128},
    "gptj": {
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 6,
        "vocab_size": 101,
        "n_positions": 128,
        "rotary_dim": 4,
    },
    "falcon": {  # as Falcon-7B: one KV head, attention and MLP side by side
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "vocab_size": 101,
        "multi_query": True,
        "parallel_attn": True,
        "new_decoder_architecture": False,
        "alibi": False,
        "bias": False,
    },
    "phi": {**LLAMA, "num_key_value_heads": 6},
    "gpt_neox": {**LLAMA},
    "mixtral": {**LLAMA, **EXPERTS},
    "phimoe": {**LLAMA, **EXPERTS},
    "gpt_oss": {**LLAMA, **EXPERTS, "head_dim": 8, "sliding_window": 8},
    "olmoe": {**LLAMA, **EXPERTS},
    "qwen3_moe": {**LLAMA, **EXPERTS, "mlp_only_layers": [1]},  # dense layers among those with experts
    "qwen2_moe": {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 32},
    "glm4_moe": {**LLAMA, **EXPERTS, "n_routed_experts": 5, "first_k_dense_replace": 1},
    "deepseek_v2": {**LLAMA, **EXPERTS, **LATENT},
    "deepseek_v3": {**LLAMA, **EXPERTS, **LATENT, "q_lora_rank": None},
    "kimi_k2": {**LLAMA, **EXPERTS, **LATENT},
    **{name: {**LLAMA, **EXPERTS, **LATENT, **INDEX} for name in ("deepseek_v32", "glm_moe_dsa", "hy_v4")},
    **{name: {**LLAMA, "head_dim": 8} for name in (*NARROW, "glm", "glm4")},
    "granitemoe": {**LLAMA, **EXPERTS},
    "granitemoeshared": {**LLAMA, **EXPERTS, "shared_intermediate_size": 32},
    "hunyuan_v1_moe": {**LLAMA, "head_dim": 8, "num_experts": 5, "moe_topk": 2},
    "minimax_m2": {**LLAMA, **EXPERTS, "head_dim": 8},
    "ernie4_5_moe": {**LLAMA, "moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": 24},
    "dots1": {**LLAMA, **EXPERTS, "n_routed_experts": 5, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "flex_olmo": {**LLAMA, **EXPERTS},
    "glm4_moe_lite": {**LLAMA, **EXPERTS, **LATENT},
    "exaone_moe": {**LLAMA, **EXPERTS, "sliding_window": 8},
    "hy_v3": {**LLAMA, **EXPERTS, "head_dim": 8},
    "solar_open": {**LLAMA, **EXPERTS, "head_dim": 8, "n_routed_experts": 5},
    "falcon_mamba": {**LLAMA, "intermediate_size": 96, "state_size": 8, "time_step_rank": 4},
    "stablelm": {**LLAMA, "use_parallel_residual": True},
    "smollm3": {**LLAMA, "no_rope_layer_interval": 2},
    "llama4_text": {  # dense layers among those with experts, one without positions
        **LLAMA,
        **EXPERTS,
        "head_dim": 8,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 2,
        "no_rope_layers": [1, 0, 1],
        "attention_chunk_size": 8,
    },
    "dbrx": {
        "d_model": 48,
        "n_layers": 3,
        "n_heads": 6,
        "vocab_size": 101,
        "max_seq_len": 128,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 48, "ffn_hidden_size": 24, "moe_num_experts": 5, "moe_top_k": 2},
    },
    **{name: {**LLAMA, "sliding_window": 8} for name in ("olmo3", "exaone4", "cohere2", "starcoder2")},
    "t5": {**T5, "feed_forward_proj": "gated-gelu"},
    "bart": {
        "d_model": 48,
        "encoder_layers": 3,
        "decoder_layers": 2,
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 8),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 80),
        "vocab_size": 101,
        "max_position_embeddings": 512,
    },
    "whisper": {
        "d_model": 48,
        "encoder_layers": 3,
        "decoder_layers": 2,
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 8),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 80),
        "vocab_size": 101,
        "num_mel_bins": 7,
        "max_source_positions": 12,
        "max_target_positions": 128,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
        "begin_suppress_tokens": None,
    },
    "switch_transformers": {
        **T5,
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "bert": {**LLAMA, "num_key_value_heads": 6, "type_vocab_size": 2},
    **{name: {**LLAMA, "num_key_value_heads": 6, "type_vocab_size": 1} for name in ROBERTAS},
    "distilbert": {
        "dim": 48,
        "n_layers": 3,
        "n_heads": 6,
        "hidden_dim": 80,
        "vocab_size": 101,
        "max_position_embeddings": 128,
    },
    "lfm2_moe": {
        **LLAMA,
        **EXPERTS,
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
    },
    "lfm3": {**LLAMA, **SINKS, "head_dim": 8, "layer_types": ["conv", "full_attention", "sliding_attention"]},
    "lfm2": {**LLAMA, "full_attn_idxs": [1], "block_auto_adjust_ff_dim": False},
    "mamba": {**LLAMA, "intermediate_size": 96, "state_size": 8, "time_step_rank": 4},
    "mamba2": {**LLAMA, "num_heads": 6, "head_dim": 16, "n_groups": 2, "state_size": 8, "chunk_size": 8},
    "rwkv": {**LLAMA, "attention_hidden_size": 48},
    "jamba": {  # a layer of attention, the middle one, and one of experts behind it
        **LLAMA,
        "num_experts": 4,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "bamba": {
        **LLAMA,
        "attn_layer_indices": [1],
        "mamba_n_heads": 6,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "falcon_h1": {
        **LLAMA,
        "mamba_n_heads": 6,
        "mamba_d_ssm": 96,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "ssm_in_multiplier": 1.25,
        "mlp_multipliers": [0.9, 0.6],
    },
    "zamba2": {
        **LLAMA,
        "num_key_value_heads": 6,
        "layers_block_type": ["hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 6,
        "mamba_d_state": 8,
        "chunk_size": 8,
        "adapter_rank": 8,
    },
    "minimax": {
        **LLAMA,
        **EXPERTS,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "block_size": 8,
    },
    "granitemoehybrid": {
        **LLAMA,
        **EXPERTS,
        "layer_types": ["mamba", "attention", "mamba"],
        "shared_intermediate_size": 32,
        "mamba_n_heads": 6,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "nemotron_h": {
        **LLAMA,
        "num_hidden_layers": 4,
        "hybrid_override_pattern": "ME*-",
        "head_dim": 8,
        "mamba_num_heads": 6,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "ssm_state_size": 8,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 32,
    },
    "qwen3_next": {**LLAMA, **DELTA, **EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": {**LLAMA, **DELTA},
    "qwen3_5_moe_text": {**LLAMA, **DELTA, **EXPERTS, "shared_expert_intermediate_size": 32},
    "bailing_hybrid": {
        **LLAMA,
        **EXPERTS,
        **{name: size for name, size in LATENT.items() if not name.startswith(("q_", "n_routed"))},
        "head_dim": 8,
        "layer_group_size": 3,
        "n_shared_experts": 1,
    },
    "olmo_hybrid": {
        **LLAMA,
        **{name: size for name, size in DELTA.items() if name.startswith("linear")},
        "linear_num_key_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    },
    "minimax_m3_vl_text": {
        **LLAMA,
        **EXPERTS,
        "head_dim": 8,
        "dense_intermediate_size": 96,
        "shared_intermediate_size": 32,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 4,
        "index_topk_blocks": 2,
        "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "longcat_flash": {
        **LATENT,
        "hidden_size": 48,
        "num_layers": 2,
        "num_attention_heads": 6,
        "vocab_size": 101,
        "max_position_embeddings": 128,
        "head_dim": 4,
        "ffn_hidden_size": 80,
        "expert_ffn_hidden_size": 24,
        "moe_topk": 2,
        "zero_expert_num": 3,
    },
    "glm5_next_text": {  # every kind of layer, and one that borrows a choice
        **LLAMA,
        **EXPERTS,
        **LATENT,
        **INDEX,
        "qk_rope_head_dim": 0,
        "index_topk": 8,
        "index_kpool": 4,
        "linear_num_heads": 4,
        "linear_head_dim": 8,
        "layer_types": ["linear_attention", "indexed_attention", "indexed_attention"],
        "indexer_types": ["full", "full", "shared"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "deepseek_v4": {  # every kind of layer
        **LLAMA,
        **EXPERTS,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "head_dim": 12,
        "partial_rotary_factor": 1 / 3,
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", *ENTRIES],
        "compress_rates": ENTRIES,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_topk": 2,
        "n_routed_experts": 5,
        "num_hash_layers": 1,
    },
    "kimi_linear": {
        **LLAMA,
        **EXPERTS,
        **LATENT,
        "q_lora_rank": None,
        "n_shared_experts": 1,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_heads": 4,
        "linear_head_dim": 8,
    },
    "gemma3_text": {**LLAMA, "sliding_window": 8, "sliding_window_pattern": 2},  # both kinds of layer
    "gemma3n_text": {
        **BORROWING,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 12,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0, 0.0, 0.0],
        "intermediate_size": 80,
    },
    "gemma4_text": {**BORROWING, "vocab_size_per_layer_input": 101, "hidden_size_per_layer_input": 12},
    "gemma4_unified_text": {**BORROWING, "num_kv_shared_layers": 0, "attention_k_eq_v": True},
    **{name: {**LLAMA, **EXPERTS, **LATENT} for name in ("mistral4", "youtu", "minicpm3", "axk1")},
    "mistral_large4_text": {  # layers with and without rotation, the last with another's keys and values
        **LLAMA,
        **EXPERTS,
        **LATENT,
        **INDEX,
        "no_rope_layers": [1, 0, 1],
        "kv_source_layers": [0, 1, 0],
    },
    "cohere_compass_text": {
        **LLAMA,
        **SINKS,
        "rope_parameters": {
            "full_attention": None,
            "sliding_attention": {**ROPE, "mrope_section": [2, 1, 1]},
        },
    },
    "cosmos3_edge_text": {**LLAMA, "head_dim": 8, "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]}},
    "beam": {
        **GATED,
        "num_experts": 8,
        "n_group": 2,
        "topk_group": 2,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "flint": {**GATED, "mlp_only_layers": [1], "shared_expert_intermediate_size": 32},
    "dots3_note_text": {
        **LLAMA,
        **EXPERTS,
        **LATENT,
        **INDEX,
        "sliding_window": 8,
        "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "moe_shared_expert_intermediate_size": 32,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        **dict.fromkeys(("swa_q_lora_rank", "swa_kv_lora_rank", "swa_head_dim", "swa_v_head_dim"), 8),
        **dict.fromkeys(("swa_qk_nope_head_dim", "swa_qk_rope_head_dim"), 4),
    },
    "muse_glimmer_text": {**LLAMA, "head_dim": 8, "sliding_window": 8},
    "muse_spark_text": {**GATED, "moe_hidden_size": 32, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "inkling_text": {  # both kinds of layer
        **LLAMA,
        **EXPERTS,
        "head_dim": 8,
        "d_rel": 4,
        "rel_extent": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "sliding_window_size": 8,
        "n_routed_experts": 5,
        "dense_intermediate_size": 80,
        "layer_types": ["hybrid", "hybrid_sliding", "hybrid"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "zaya": {  # both kinds of layer
        **LLAMA,
        **EXPERTS,
        "num_experts_per_tok": 1,
        "head_dim": 8,
        "router_hidden_size": 16,
        "sliding_window": 8,
        "layer_types": ["hybrid", "hybrid_sliding", "hybrid"],
    },
    "kolibri1": {**LLAMA, **EXPERTS, "head_dim": 8},
    "axk2": {**LLAMA, **EXPERTS, **LATENT, **INDEX, "gated_norm_rank": 4},
    "granite_swa": {**LLAMA, **SINKS},
    "granitemoe_swa": {**LLAMA, **EXPERTS, **SINKS, "shared_intermediate_size": 32},
    "hyperclovax": {**LLAMA, "use_post_norm": True},
    "afmoe": {**GATED, "num_dense_layers": 1, "num_shared_experts": 1},
    "aria_text": {**LLAMA, "moe_num_experts": 5, "moe_topk": 2, "moe_num_shared_experts": 1},
    "mellum": {**GATED, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "cohere2_moe": {**GATED, "first_k_dense_replace": 1, "num_shared_experts": 1},
    "laguna": {  # heads by layer
        **GATED,
        "num_attention_heads_per_layer": [6, 4, 6],
        "shared_expert_intermediate_size": 32,
    },
    "mimo_v2_flash": {
        **LLAMA,
        **EXPERTS,
        "num_key_value_heads": 3,
        "head_dim": 12,
        "v_head_dim": 8,
        "sliding_window": 8,
        "n_routed_experts": 5,
        "n_group": 1,
        "topk_group": 1,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    **{name: {**LLAMA, "head_dim": 8} for name in ("qwen3_vl_text", "molmo2_text", "voxtral_realtime_text")},
    "hunyuan_vl_text": {
        **LLAMA,
        "head_dim": 8,
        "rope_parameters": {**ROPE, "mrope_section": [1, 1, 1, 1]},
    },
    "glm_ocr_text": {
        **LLAMA,
        "head_dim": 8,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1]},
    },
    "glm4v_text": {
        **LLAMA,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1]},
    },
    **{
        name: {**LLAMA, "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]}}
        for name in ("qwen2_vl_text", "qwen2_5_vl_text")
    },
    "qwen3_vl_moe_text": {**LLAMA, **EXPERTS, "head_dim": 8},
    "glm4v_moe_text": {
        **LLAMA,
        **EXPERTS,
        "n_routed_experts": 5,
        "n_group": 1,
        "topk_group": 1,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1]},
    },
}


@pytest.fixture(scope="session", autouse=True)
def light() -> Iterator[None]:
    """One thread, as the command line measures. Imported code is kept out of garbage collections, of
    which the profiler makes one per step: each takes 0.2 s when torch and transformers are searched too.
    """
    if find_spec("torch") and find_spec("transformers"):
        import torch
        import transformers.models.llama.modeling_llama  # noqa: F401 - half of what is imported later

        torch.set_num_threads(1)
        gc.collect()
        gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Loaded]:
    """A model of a family with three layers."""

    def make(family: str = "llama", **changes: Any) -> Loaded:
        fields = {"model_type": family, **FIELDS.get(family, LLAMA), **changes}
        return Loaded(build(Config(fields, "tiny"), f"tiny-{family}"), fields)

    return make


# What a release before the pinned one has, and builds otherwise.
DIFFERENT = {"glm5_next_text": "its config knows no layers of indexed attention"}


def older_transformers() -> str:
    """The version of a transformers older than the pinned one, of which some tests ask more; else empty."""
    import transformers
    from packaging.version import Version

    pins = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^transformers==(\S+)$", pins, re.MULTILINE)
    assert pinned is not None
    found: str = transformers.__version__
    return found if Version(found) < Version(pinned[1]) else ""


@pytest.fixture(scope="session")
def subject(tiny: Callable[..., Loaded]) -> Callable[..., Subject]:
    """Such a model with random weights, ready to run."""

    def make(family: str = "llama", device: str = "cpu", dtype: str = "fp32", **changes: Any) -> Subject:
        loaded = tiny(family, **changes)
        try:
            return load_subject(loaded, device, dtype, seed=0)
        except InputError as error:
            version, why = older_transformers(), DIFFERENT.get(family, f"it has no {family}")
            if not version or not (family in DIFFERENT or "has no" in str(error)):
                raise
            pytest.skip(f"transformers {version}: {why}")

    return make


@pytest.fixture
def inference() -> Iterator[None]:
    """Without gradients."""
    import torch

    with torch.inference_mode():
        yield


@pytest.fixture
def cuda() -> str:
    """A CUDA device, set up as commands do; the test is skipped where there is none."""
    import torch

    from profiler.environment import pick_device

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return pick_device("cuda")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def printed_by(command: Command, *words: str) -> str:
    """What one command prints; its errors are raised."""
    result = CliRunner().invoke(command, [*words], catch_exceptions=False, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


class Finished(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def roofline() -> Callable[..., Finished]:
    """The command line in this process: torch is imported once for all tests."""

    def run(*words: object) -> Finished:
        from profiler.cli import main

        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr("sys.argv", ["roofline", *map(str, words)])
            with pytest.raises(SystemExit) as left:
                main()
        code = left.value.code
        assert isinstance(code, int)
        return Finished(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def profiled(
    roofline: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Path]:
    """The run of a family, by the command: a prompt of 12 tokens, and so many of an answer."""

    def make(family: str, output: int) -> Path:
        folder = tmp_path_factory.mktemp(family)
        (folder / "config.json").write_text(json.dumps({"model_type": family, **FIELDS[family]}))
        sizes = ("--phase", "generate", "--prompt", 12, "--output", output)
        done = roofline("profile", folder, *sizes, "--repeats", 3, "--no-alone", "-o", folder / "run")
        assert done.code == 0, done.err
        return folder / "run"

    return make


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a config just large enough that operators outweigh the framework around them."""
    folder = tmp_path_factory.mktemp("small-llama")
    fields = {
        **LLAMA,
        "model_type": "llama",
        "hidden_size": 256,
        "num_attention_heads": 8,
        "intermediate_size": 704,
        "vocab_size": 2000,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="session")
def brief() -> Iterator[None]:
    """Measuring the ceilings of a machine, cut down to a few seconds: small caches, matrices, models."""
    from profiler.probes import squares
    from profiler.yardsticks import Size, Steps

    sizes = {
        "yardstick-a": Size(64, 4, 4, 160, 300, 2),
        "yardstick-b": Size(128, 4, 2, 352, 500, 2),
        "yardstick-c": Size(192, 6, 2, 512, 900, 2),
        "yardstick-d": Size(96, 6, 3, 256, 700, 2),
    }
    steps = Steps(prefill=((1, 16, 16), (1, 64, 64)), decode=((1, 1, 20), (1, 1, 90)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiler.yardsticks.CPU_SIZES", sizes)
        patch.setattr("profiler.yardsticks.CPU_STEPS", steps)
        patch.setattr("profiler.ceilings.plan.last_level_cache_bytes", lambda _: 1 << 18)
        # for the whole session, so a GPU's stay as they are for the tests of its probes
        patch.setattr("profiler.probes.squares", lambda d: (64, 128) if d == "cpu" else squares(d))
        yield


@pytest.fixture(scope="session")
def measured_file(
    brief: None, roofline: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The device file that `roofline ceilings` writes for this machine."""
    file = tmp_path_factory.mktemp("ceilings") / "here.yaml"
    done = roofline("ceilings", "-o", file, "--device", "cpu", "--passes", 1, "--name", "here")
    assert done.code == 0, done.err
    return file
