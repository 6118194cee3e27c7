"""Published formats of weights, as configs on Hugging Face state them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workloads.catalogue import load_model
from workloads.dtypes import Precision, bytes_per_element
from workloads.phases import Setting, decode, operators, owners, weight_bytes
from workloads.stored import as_entry, as_options, stored_formats, stored_note


def weights(bits: int, size: int | None, kind: str = "int") -> dict[str, Any]:
    """A scheme of compressed-tensors."""
    return {"num_bits": bits, "type": kind, "group_size": size, "symmetric": True}


def tensors(stored: Any, inputs: Any = None, **more: Any) -> dict[str, Any]:
    """What compressed-tensors writes for one group of modules."""
    group = {"targets": ["Linear"], "weights": stored, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}


def torchao(name: str, **data: Any) -> dict[str, Any]:
    """What transformers writes for a scheme of torchao."""
    return {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": name, "_version": 1, "_data": data}},
    }


# Read from the models' cards: DeepSeek-V3 "FP8 weights, blocks of 128 x 128"; gpt-oss "MoE weights in MXFP4".
@pytest.mark.parametrize(
    ("model", "formats"),
    [
        ("Kimi-K2-Thinking", {"experts": "int4_sym_g32"}),
        ("DeepSeek-V3", {"weights": "fp8_block", "activations": "fp8"}),
        ("gpt-oss-120b", {"experts": "mxfp4"}),
        ("Llama-3.1-8B", None),
    ],
)
def test_shipped_models_state_how_they_are_published(model: str, formats: dict[str, str] | None) -> None:
    assert stored_formats(load_model(model).config) == formats


@pytest.mark.parametrize(
    ("quantised", "formats"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, {"weights": "int4_g128"}),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, {"weights": "int8_g128"}),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, None),
        ({"quant_method": "fp8"}, {"weights": "fp8"}),
        ({"quant_method": ["fp8"]}, None),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            {"weights": "nf4"},
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_quant_type": "fp4"},
            {"weights": "int8", "activations": "int8"},
        ),
        (tensors(weights(4, 128)), {"weights": "int4_g128"}),
        (tensors(weights(4, 32), ignore=["lm_head"]), {"weights": "int4_sym_g32"}),
        (tensors({**weights(4, 32), "symmetric": False}), {"weights": "int4_g32"}),  # with zero points
        (tensors(weights(4, 48)), None),
        (tensors(weights(8, None), weights(8, None)), {"weights": "int8", "activations": "int8"}),
        (
            tensors(
                weights(8, None, "float"),
                weights(8, None, "float"),
                kv_cache_scheme=weights(8, None, "float"),
            ),
            {"weights": "fp8", "activations": "fp8", "kv": "fp8"},
        ),
        (
            tensors({**weights(8, None, "float"), "block_structure": [128, 128]}, weights(8, 128, "float")),
            {"weights": "fp8_block", "activations": "fp8"},
        ),
        (tensors({**weights(8, None, "float"), "strategy": "block"}), {"weights": "fp8_block"}),
        (
            {**tensors(weights(4, 16, "float"), weights(4, 16, "float")), "quant_method": "modelopt"},
            {"weights": "nvfp4", "activations": "nvfp4"},
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
            {"weights": "fp8", "activations": "fp8", "kv": "fp8"},
        ),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, None),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {"weight": {"dtype": "fp4"}, "input_tensors": None},
            },
            {"weights": "mxfp4"},
        ),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {"weight": {"dtype": "fp4"}},
                "layer_quant_config": {"*self_attn*": {"weight": {"dtype": "fp8_e4m3"}}},
            },
            None,
        ),
        ({"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp8_e4m3"}]}}, None),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, None),
        (torchao("Float8WeightOnlyConfig"), {"weights": "fp8"}),
        (torchao("Int8DynamicActivationInt8WeightConfig"), {"weights": "int8", "activations": "int8"}),
        (torchao("Int4WeightOnlyConfig", group_size=128), {"weights": "int4_g128"}),
        (torchao("Int4WeightOnlyConfig"), None),
        ({**torchao("Int8WeightOnlyConfig"), "include_input_output_embeddings": True}, None),
        ("fp8", None),
    ],
)
def test_other_configs(quantised: Any, formats: dict[str, str] | None) -> None:
    assert stored_formats({"quantization_config": quantised}) == formats


# As NVIDIA, Moonshot AI and RedHat AI write what they leave out, one name for many layers.
@pytest.mark.parametrize(
    "left",
    [
        ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"],
        ["lm_head", "model.layers.0.self_attn*"],
        ["model.layers.3.self_attn.q_a_proj", "model.layers.3.self_attn.kv_b_proj"],
        ["backbone.layers.5.mixer.q_proj", "backbone.layers.5.mixer.in_proj"],
        ["*.attn.*", "head"],
    ],
)
def test_where_attention_is_left_out_the_format_is_the_experts(left: list[str]) -> None:
    quantised = {"quantization_config": tensors(weights(4, 16, "float"), ignore=left)}
    both = {"quantization_config": tensors(weights(4, 16, "float"), weights(4, 16, "float"), ignore=left)}
    multiplied = {"experts": "nvfp4", "expert_activations": "nvfp4"}
    assert stored_formats({**both, "num_experts": 8}) == multiplied
    assert stored_formats({**quantised, "n_routed_experts": 8}) == {"experts": "nvfp4"}
    assert stored_formats({"text_config": {**quantised, "num_experts": 8}}) == {"experts": "nvfp4"}
    assert stored_formats(quantised) is None  # of an MLP alone: no option says that


@pytest.mark.parametrize(
    "left", [["lm_head"], ["model.layers.0.mlp.gate"], [5], ["vision_tower.blocks.1.attn.x"]]
)
def test_what_else_is_left_out_is_small(left: list[Any]) -> None:
    quantised = {"quantization_config": tensors(weights(4, 16, "float"), ignore=left), "num_experts": 8}
    assert stored_formats(quantised) == {"weights": "nvfp4"}


def test_modelopt_may_state_formats_in_a_file_of_its_own(tmp_path: Path) -> None:
    config = load_model("Llama-3.1-8B").config
    (tmp_path / "config.json").write_text(json.dumps(config))
    stated = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": stated}))
    assert stored_formats(load_model(tmp_path).config) == {
        "weights": "fp8",
        "activations": "fp8",
        "kv": "fp8",
    }
    own = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": own}))
    assert stored_formats(load_model(tmp_path).config) == {"weights": "int4_g128"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": []}))
    assert stored_formats(load_model(tmp_path).config) is None


def test_experts_of_kimi_are_as_large_as_their_tensors() -> None:
    """Eight 4-bit numbers in an int32 and a 16-bit scale for 32 of them, without zero points."""
    hidden, width = 7168, 2048
    torch = pytest.importorskip("torch")
    packed = torch.empty(width, hidden // 8, dtype=torch.int32)
    scales = torch.empty(width, hidden // 32, dtype=torch.bfloat16)
    assert hidden * width * bytes_per_element("int4_sym_g32") == packed.nbytes + scales.nbytes


def test_a_quantization_that_is_not_known_is_said() -> None:
    config = {"quantization_config": {"quant_method": "torchao"}}
    said = "x is predicted in bf16; its config states a quantization that is not read here: "
    said += "give --weights FORMAT."
    assert stored_note("x", config, Precision(), as_options) == said
    assert stored_note("x", config, Precision.of("int8"), as_options) is None
    assert stored_note("x", {}, Precision(), as_options) is None


def test_nothing_is_said_to_who_chose() -> None:
    config = load_model("gpt-oss-20b").config
    asked = [("--expert-weights mxfp4", as_options), ("{experts: mxfp4} in dtypes", as_entry)]
    for formats, said in asked:
        assert (stored_note("gpt-oss-20b", config, Precision(), said) or "").endswith(f"narrower: {formats}.")
    assert stored_note("gpt-oss-20b", config, Precision.of("bf16", experts="mxfp4"), as_options) is None
    assert stored_note("gpt-oss-20b", config, Precision.of("fp8"), as_options) is None


# Llama 3.1 (and 3) 8B. vLLM's documentation of FP8: "Loading model weights took 8.4596 GB" (its GB are GiB);
# a log of vLLM with AWQ: 5.3440; model.safetensors of unsloth/meta-llama-3.1-8b-instruct-bnb-4bit: 5.70 GB.
@pytest.mark.parametrize(
    ("stored", "published"),
    [("bf16", 16.06e9), ("fp8", 8.4596 * 2**30), ("int4_g128", 5.344 * 2**30), ("nf4", 5.70e9)],
)
def test_published_checkpoints_keep_their_vocabulary_in_sixteen_bits(stored: str, published: float) -> None:
    model, setting = load_model("Llama-3.1-8B").model, Setting(Precision.of(stored))
    assert weight_bytes(owners(model, setting)) == pytest.approx(published, rel=0.003)


def test_a_quantised_model_with_small_layers_is_mostly_its_vocabulary() -> None:
    """Qwen3-0.6B: 0.44 GB of linear layers in fp8 (GeeeekExplorer/nano-vllm, pull request 241)."""
    model = load_model("Qwen3-0.6B").model
    rows = operators(model, decode(1, 100), Setting(Precision.of("fp8")))
    inside = sum(r.count * r.operator.work().weight_bytes for r in rows if r.name.endswith("_proj"))
    assert inside == pytest.approx(0.4411e9, rel=0.002)
    (head,) = (row for row in rows if row.name == "lm_head")
    assert head.operator.work().weight_bytes == 2 * model.vocabulary * model.hidden


def test_all_weights_in_the_format_of_published_experts_are_said_to_be_too_narrow() -> None:
    """Attention of gpt-oss stays in bf16."""
    config = load_model("gpt-oss-20b").config
    told = stored_note("gpt-oss-20b", config, Precision.of("mxfp4"), as_options)
    assert told == (
        "gpt-oss-20b is predicted with all weights in mxfp4, which only its published experts have: "
        "--expert-weights mxfp4."
    )
    assert stored_note("gpt-oss-20b", config, Precision.of("int4_g128"), as_options) is None  # a choice
    deepseek = load_model("DeepSeek-V3").config
    assert stored_note("DeepSeek-V3", deepseek, Precision.of("fp8_block"), as_options) is None
