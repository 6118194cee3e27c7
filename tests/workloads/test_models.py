"""Every shipped model: it loads, its parameters are the published ones, its names are its own."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

from specfiles.errors import InputError
from workloads import families
from workloads.blocks import AttentionBlock, MlpBlock
from workloads.catalogue import MODELS, _names, agrees, load_model
from workloads.config import Config
from workloads.dtypes import Precision
from workloads.families import FAMILIES, READERS, build, kin, multimodal
from workloads.operators import Gemm, Norm
from workloads.phases import (
    ActiveConvention,
    Setting,
    active_parameters,
    decode,
    names_in_layers,
    operators,
    owners,
    parameters,
    prefill,
    weight_bytes,
)

FILES = MODELS.paths()


def sizes(hidden: int, inner: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_counted_parameters_are_the_published_ones(path: Path) -> None:
    loaded = load_model(path)
    assert loaded.file is not None
    published, counted = loaded.file.published, parameters(loaded.model)
    if published.params is None:
        assert published.rounded is not None
        assert agrees(counted, published.rounded)
    else:
        assert counted == published.params
    if published.active is not None:
        active = active_parameters(loaded.model, published.active.convention)
        assert agrees(active, published.active.rounded), active


@pytest.mark.parametrize(
    ("counted", "rounded", "same"),
    [
        (12_879_925_248, "12.9B", True),
        (12_879_925_248, "12.8B", True),  # cut instead of rounded
        (12_879_925_248, "12.7B", False),
        (12_879_925_248, "13B", True),
        (124_635_456, "124.6M", True),
        (1_026_408_209_408, "1T", True),
    ],
)
def test_a_printed_count_is_rounded_or_cut(counted: int, rounded: str, same: bool) -> None:
    assert agrees(counted, rounded) is same


def test_experts_that_a_token_does_not_meet_are_not_active() -> None:
    """Mixtral-8x7B: 2 of 8 experts in each of 32 layers; gpt-oss without the table of inputs."""
    model = load_model("Mixtral-8x7B").model
    expert = 3 * 4096 * 14336
    assert parameters(model) - active_parameters(model) == 32 * 6 * expert
    oss = load_model("gpt-oss-20b").model
    table = 201088 * 2880
    assert active_parameters(oss) - active_parameters(oss, "without input embedding") == table
    assert active_parameters(oss) - active_parameters(oss, "without embeddings") == 2 * table
    dense = load_model("Llama-3.1-8B").model
    assert active_parameters(dense) == parameters(dense)


def test_the_table_of_readers_names_every_family_where_it_is() -> None:
    modules = {
        m.name: import_module(f"{families.__name__}.{m.name}") for m in iter_modules(families.__path__)
    }
    assert {name: " ".join(m.FAMILY) for name, m in modules.items() if hasattr(m, "FAMILY")} == READERS


def test_every_family_has_a_shipped_model_or_is_compared_at_small_sizes() -> None:
    """With transformers: test_transformers and test_mixers_in_transformers."""
    shipped = {load_model(path).model.family for path in FILES}
    hybrids = {"falcon_mamba", "bamba", "falcon_h1", "granitemoehybrid", "zamba2"}
    hybrids |= {"minimax", "minimax_text_01", "minimax_m1"}
    small = {
        *kin.FAMILY,
        *multimodal.FAMILY,
        *hybrids,
        "vaultgemma",
        "gpt_bigcode",
        "gpt_neo",
        "xglm",
        "glm4_moe_lite",
    }
    small |= {
        "gemma4_unified_text",
        "mistral4",
        "youtu",
        "minicpm3",
        "hy_v4",
        "axk1",
        "axk2",
        "qwen4_exp_text",
        "mistral_large4_text",
        "bailing_hybrid",
        "lfm3",
        "olmo_hybrid",
        "glm5_next_text",
        "mimo_v2",
        "afmoe",
        "laguna",
        "beam",
        "xlm-roberta",
        "camembert",
        "data2vec-text",
        "dots3_note_text",
        "inkling_text",
        "zaya",
        "hrm_text",
        "inkling_model",
        "muse_glimmer_text",
        "muse_spark_text",
    }
    small |= {"minimax_m3_text", "minimax_m3_vl_text"}
    small -= {"qwen3_vl_text", "qwen3_vl_moe_text"}
    assert set(FAMILIES) - shipped == small
    assert shipped <= set(FAMILIES)


LING = {
    **{"hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 20, "num_attention_heads": 16},
    **{"num_key_value_heads": 4, "head_dim": 128, "vocab_size": 157184, "use_qk_norm": True},
    **{"num_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1, "moe_intermediate_size": 512},
    **{"first_k_dense_replace": 1, "moe_router_enable_expert_bias": True},
}
# Layers and heads by sgl-project/sglang-jax, issue 887, 256 experts by arXiv:2606.15079; else as in Ling-1T.
LING_2_5 = {
    **{"hidden_size": 8192, "intermediate_size": 18432, "num_hidden_layers": 80, "num_attention_heads": 64},
    **{"head_dim": 128, "vocab_size": 157184, "use_qk_norm": True, "group_norm_size": 8},
    **{"num_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1},
    **{"moe_intermediate_size": 2048, "first_k_dense_replace": 4, "layer_group_size": 8},
    **{"moe_router_enable_expert_bias": True, "q_lora_rank": 1536, "partial_rotary_factor": 0.5},
}
LARGE_4 = {  # defaults of transformers' class, models/mistral_large4
    **sizes(6144, 24576, 72, 64, 204_800),
    **{"moe_intermediate_size": 6144, "n_routed_experts": 128, "num_experts_per_tok": 4},
}
BEAM = {  # defaults of transformers' class, models/beam
    **sizes(5120, 20480, 52, 48, 151_936),
    **{"num_key_value_heads": 8, "moe_intermediate_size": 2560, "num_experts": 256, "num_experts_per_tok": 8},
}
MUSE_SPARK = {  # defaults of transformers' class, models/muse_spark
    **sizes(8192, 16384, 62, 128, 202_048),
    **{"num_key_value_heads": 16, "head_dim": 64, "moe_hidden_size": 4096, "moe_intermediate_size": 4096},
    **{"num_local_experts": 256, "num_experts_per_tok": 8},
}
ZAYA = {"hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 8, "vocab_size": 262_272}
DEEPSEEK_MOE = {
    **{"hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 28, "num_attention_heads": 16},
    **{"vocab_size": 102400, "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2},
    **{"num_experts_per_tok": 6, "first_k_dense_replace": 1},
}

DEEPSEEK_OCR = {
    **sizes(1280, 6848, 12, 10, 129_280),
    **{"use_mla": False, "kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": 0, "v_head_dim": 0},
    **{"qk_rope_head_dim": 0, "num_key_value_heads": 10, "moe_intermediate_size": 896},
    **{"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
}
ERNIE_VL = {  # as its authors write it: text, images
    **sizes(2560, 12288, 28, 20, 103_424),
    **{"num_key_value_heads": 4, "moe_num_experts": [64, 64], "moe_intermediate_size": [1536, 512]},
    **{"moe_k": 6, "moe_num_shared_experts": 2, "moe_layer_start_index": [1, 1]},
    **{"moe_layer_end_index": [29, 28], "moe_layer_interval": 1},
}


@pytest.mark.parametrize(
    ("family", "fields", "whole", "active", "convention"),
    [
        # arXiv:2510.18234: 3B, of which 570M for a token
        ("deepseek_v2", DEEPSEEK_OCR, "3B", "0.57B", "without input embedding"),
        # baidu/ERNIE-4.5-VL-28B-A3B-PT without its experts of images: ERNIE-4.5-21B-A3B
        ("ernie4_5_moe_vl", ERNIE_VL, "21B", "3B", "without input embedding"),
        # inclusionAI/Ling-mini-2.0: 16.26B, of which 1.4B for a token, 789M without embeddings
        ("bailing_moe_v2", LING, "16.26B", "1.4B", "all"),
        ("bailing_moe", LING, "16.26B", "789M", "without embeddings"),
        # inclusionAI/Ling-2.5-1T: 1T, of which 63B for a token
        ("bailing_hybrid", LING_2_5, "1T", "63B", "all"),
        # reflection/Beam-1.0-501B-A23B
        ("beam", BEAM, "501B", "23B", "all"),
        # meta-models/Muse-Spark-Open-816B-A42B, which counts no embeddings
        ("muse_spark_text", MUSE_SPARK, "820B", "42B", "without embeddings"),
        # arXiv:2511.17127: 8.3B, of which 760M for a token, both without embeddings
        ("zaya", ZAYA, "8.8B", "0.75B", "without embeddings"),
        # mistralai/Mistral-Large-4-1T-A52B
        ("mistral_large4_text", LARGE_4, "1T", "52B", "without input embedding"),
        # arXiv:2401.06066, table 2
        ("deepseek", DEEPSEEK_MOE, "16.4B", "2.8B", "all"),
        # internlm/internlm2_5-7b: 7.74B
        (
            "internlm2",
            sizes(4096, 14336, 32, 32, 92544) | {"num_key_value_heads": 8},
            "7.74B",
            "7.74B",
            "all",
        ),
        # arXiv:2404.06395, table 2: 2,442,057,984 without embeddings
        ("minicpm", sizes(2304, 5760, 40, 36, 122753), "2.72B", "2.442B", "without embeddings"),
        # OrionStarAI/Orion-14B: 14.5B
        ("orion", sizes(5120, 15360, 40, 40, 84608), "14.5B", "14.5B", "all"),
    ],
)
def test_sizes_at_which_no_config_is_shipped(
    family: str, fields: dict[str, Any], whole: str, active: str, convention: ActiveConvention
) -> None:
    model = build(Config({"model_type": family, **fields}, "test"), "test")
    assert agrees(parameters(model), whole)
    assert agrees(active_parameters(model, convention), active)


def test_the_counted_table_agrees(shared: Callable[[str], Path]) -> None:
    """Parameters and KV bytes per token against another count, by the reference implementation."""
    with shared("facts/models.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["model"].lower(): row for row in csv.DictReader(file)}
    ours = {str(name).lower(): path for path in FILES for name in _names(path)}
    checked = 0
    for name in rows.keys() & ours.keys():
        model, row = load_model(ours[name]).model, rows[name]
        checked += 1
        sees = len(model.stacks) > 1 or "vision_config" in load_model(ours[name]).config
        assert parameters(model) == int(row["total_params_counted" if sees else "text_params_counted"]), name
        growth = model.cache_bytes(1, 2, Setting()) - model.cache_bytes(1, 1, Setting())  # states stay
        if row["kv_bytes_per_token_16bit"]:
            assert growth == int(row["kv_bytes_per_token_16bit"]), model.name
        elif not model.has_memory:  # a state-space model, an encoder, a diffusion model
            assert growth == 0, model.name
        if row["active_params_counted_incl_emb"]:
            assert active_parameters(model) == int(row["active_params_counted_incl_emb"]), model.name
            without = active_parameters(model, "without input embedding")
            assert without == int(row["active_params_minus_input_emb"]), model.name
    assert checked >= 76


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("llama 2 7b", "Llama-2-7B"),
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("qwen2.5_0.5b", "Qwen2.5-0.5B"),
        ("google/gemma-2-2b", "Gemma-2-2b"),
        ("facebook/opt-125m", "OPT-125m"),
    ],
)
def test_people_find_the_model_they_mean(asked: str, name: str) -> None:
    assert load_model(asked).model.name == name


@pytest.mark.parametrize(
    ("checkpoint", "model"),
    [
        ("Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("RedHatAI/Llama-3.3-70B-Instruct", "Llama-3.3-70B"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "Qwen3-235B-A22B"),
        ("google/gemma-3-27b-it", "Gemma-3-27b"),
        ("mistralai/Mistral-Large-Instruct-2407", "Mistral-Large-2407"),  # its own name
    ],
)
def test_a_tuned_checkpoint_has_the_sizes_of_its_base(checkpoint: str, model: str) -> None:
    assert load_model(checkpoint).model.name == model


@pytest.mark.parametrize(
    ("checkpoint", "sentence"),
    [
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "give Llama-3.3-70B and .*: --weights fp8 --activations fp8"),
        ("Qwen/Qwen3-32B-AWQ", "give Qwen3-32B and the format of its weights: --weights int4_g128"),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "give DeepSeek-R1 and .*: --weights nvfp4 --activations nvfp4"),
        ("nobody/Nothing-FP8", "no model named 'nobody/Nothing-FP8'; known: "),
    ],
)
def test_a_quantised_checkpoint_is_refused_with_the_options_of_its_format(
    checkpoint: str, sentence: str
) -> None:
    """A bf16 prediction of it would be a silent mistake."""
    with pytest.raises(InputError, match=sentence):
        load_model(checkpoint)


def test_a_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no model named 'Lama-2-7B'; did you mean Llama-2-7B"):
        load_model("Lama-2-7B")


def test_a_folder_with_a_config_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,'
        ' "intermediate_size": 16, "vocab_size": 10}'
    )
    for asked in (folder, folder / "config.json"):
        loaded = load_model(asked)
        assert loaded.model.name == "my-model"
        assert loaded.file is None
    # embedding and head, q k v o, gate up down, two norms, the last norm
    assert parameters(loaded.model) == 2 * 10 * 8 + 4 * 8 * 8 + 3 * 8 * 16 + 2 * 8 + 8


@pytest.mark.parametrize(("name", "gibibytes"), [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_mxfp4_checkpoints_are_as_large_as_published(name: str, gibibytes: float) -> None:
    """OpenAI, gpt-oss model card, table 1: experts in MXFP4, all else in bf16."""
    setting = Setting(Precision.of("bf16", experts="mxfp4"))
    size = weight_bytes(owners(load_model(name).model, setting))
    assert round(size / 2**30, 1) == gibibytes


def test_the_index_of_sparse_attention_is_cached_beside_the_latent() -> None:
    """DeepSeek-V3.2's config: `index_head_dim` 128, one key of it more per position and layer.

    vLLM's DeepseekV32IndexerCache has 132 bytes for it: 128 in fp8 and a scale in fp32.
    """
    dense, sparse = (
        load_model(name).model.cache_bytes(1, 1, Setting()) for name in ("DeepSeek-V3", "DeepSeek-V3.2")
    )
    assert dense == 61 * (512 + 64) * 2
    assert sparse - dense == 61 * 132


def test_layers_that_share_picks_cache_no_index() -> None:
    """GLM-5.2: three layers and then each fourth of 78 have an indexer, as its config lists and counts."""
    loaded = load_model("GLM-5.2")
    assert loaded.model.cache_bytes(1, 1, Setting()) == 78 * (512 + 64) * 2 + 21 * 132
    counted = {name: value for name, value in loaded.config.items() if name != "indexer_types"}
    assert build(Config(counted, "test"), "GLM-5.2").stack == loaded.model.stack


def test_latents_of_layers_with_a_window_are_kept_for_its_positions() -> None:
    """Dots 3 Note: 13 of 46 layers see what an indexer picks; a latent of 512 + 64, an index of 128."""
    sized = sizes(5120, 13824, 46, 128, 152_064) | {"moe_intermediate_size": 1536, "n_routed_experts": 256}
    model = build(Config({"model_type": "dots3_note_text", **sized}, "test"), "test")
    setting = Setting()

    def cached(tokens: int) -> float:
        return sum(layer.cache_bytes(tokens, setting) for layer in model.layers)

    each = 13 * ((512 + 64) * 2 + 132)  # engines keep the index in fp8, with a scale
    assert cached(10_001) - cached(10_000) == each
    inside = 33 * 512 * (1024 + 64) * 2  # sliding layers have a latent twice as wide
    assert cached(10_000) == 10_000 * each + inside


def test_values_narrower_than_keys_are_cached_as_they_are() -> None:
    """MiMo-V2-Flash: keys of 192 and values of 128 elements; windows of 128 and the query's own."""
    model, tokens = load_model("MiMo-V2-Flash").model, 10_000
    heads = 9 * 4 * tokens + 39 * 8 * (128 + 1)
    assert model.cache_bytes(1, tokens, Setting()) == heads * (192 + 128) * 2


@pytest.mark.parametrize("without", ["without input embedding", "without embeddings"])
def test_embeddings_of_all_layers_are_input_embeddings(without: ActiveConvention) -> None:
    """Gemma 3n E2B, whose layers' tables stay in slower memory: the rest is its "effective 2B"."""
    model = load_model("gemma-3n-e2b").model
    tables = 262_400 * 2048 + 262_144 * 30 * 256
    assert parameters(model) - active_parameters(model, without) == tables


def test_embeddings_of_all_layers_are_normalised_layer_by_layer() -> None:
    """Gemma 3n E2B: 256 elements for each of 30 layers, made by one product."""
    rows = {row.name: row.operator for row in operators(load_model("gemma-3n-e2b").model, decode(2, 100))}
    made, norm = rows["per_layer_projection"], rows["per_layer_projection_norm"]
    assert isinstance(made, Gemm)
    assert isinstance(norm, Norm)
    assert (norm.tokens, norm.width) == (2 * 30, 256)
    assert norm.tokens * norm.width == made.m * made.n


def test_a_layer_that_runs_twice_is_held_once() -> None:
    """MobileLLM-LS (arXiv:2402.14905, section 2.2.3): twice the work of MobileLLM, no parameter more."""
    plain, shared = (load_model(f"MobileLLM-{kind}125M").model for kind in ("", "LS-"))
    assert parameters(shared) == parameters(plain)
    assert shared.cache_bytes(1, 100, Setting()) == 2 * plain.cache_bytes(1, 100, Setting())
    once, twice = ({row.name: row for row in operators(m, decode(1, 100))} for m in (plain, shared))
    assert twice["layers.mlp.up_proj"].count == 2 * once["layers.mlp.up_proj"].count == 60
    assert twice["lm_head"].count == 1


def test_layers_of_a_search_equal_llama_where_it_changed_nothing() -> None:
    """Llama-3.3-Nemotron-Super-49B: no layer is more than Llama-3.3-70B's, some blocks are left out."""
    found, llama = load_model("Llama-3.3-Nemotron-Super-49B").model, load_model("Llama-3.3-70B").model
    whole = llama.layers[0]
    assert whole in found.layers
    assert sum(len(layer.blocks) for layer in found.layers) < 2 * len(llama.layers)
    assert max(layer.find(MlpBlock).width for layer in found.layers if len(layer.blocks) == 2) == 28672


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        *(
            (name, 1)
            for name in ("DeepSeek-V3", "DeepSeek-R1", "DeepSeek-V3.2", "GLM-4.5", "GLM-4.5-Air", "GLM-5")
        ),
        *((name, 1) for name in ("Qwen3-Next-80B-A3B", "Qwen3.5-27B", "Qwen3.5-397B-A17B")),
        *(
            (name, 0)
            for name in ("Llama-3.1-8B", "DeepSeek-V2", "Mamba-2-2.7B", "Qwen3-30B-A3B", "BERT-base-uncased")
        ),
        *((name, 0) for name in ("Kimi-K2", "Nemotron-3-Nano-30B-A3B")),
        ("MiniMax-M2.5", 0),  # announced in its config, and not published
    ],
)
def test_layers_of_multi_token_prediction_are_those_of_the_checkpoint(name: str, modules: int) -> None:
    assert load_model(name).model.stack.drafts == modules


@pytest.mark.parametrize("name", ["Gemma-4-E2B", "MiMo-V2-Flash", "GLM-5.2", "T5-small", "Qwen3.5-27B"])
def test_layers_name_their_operators_as_steps_do(name: str) -> None:
    model = load_model(name).model
    step = prefill(1, 1)
    for stack in model.stacks if model.has_memory else (model.stack,):
        named = names_in_layers(stack)
        assert set(named) == set(stack.layers)
        rows = Counter(row.name for row in operators(model, step) for _ in range(int(row.count)))
        for own in set().union(*(names.values() for names in named.values())):
            assert rows[own] == sum(list(named[layer].values()).count(own) for layer in stack.layers)


def test_layers_with_a_window_may_have_heads_of_their_own() -> None:
    """MiMo-V2.5 states them (vLLM, models/mimo_v2.py), and may have no sinks."""
    fields = {
        **sizes(64, 96, 2, 4, 100),
        **{"head_dim": 24, "v_head_dim": 16, "num_key_value_heads": 2, "moe_intermediate_size": 32},
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "hybrid_layer_pattern": [0, 1]},
        **{"swa_num_attention_heads": 6, "swa_num_key_value_heads": 3, "swa_head_dim": 20},
        **{"swa_v_head_dim": 12, "add_swa_attention_sink_bias": False},
    }
    full, near = build(Config({"model_type": "mimo_v2", **fields}, "test"), "test").layers
    blocks = [layer.find(AttentionBlock) for layer in (full, near)]
    found = [(b.heads, b.kv_heads, b.head_dim, b.value_dim, b.sinks) for b in blocks]
    assert found == [(4, 2, 24, 16, False), (6, 3, 20, 12, False)]
