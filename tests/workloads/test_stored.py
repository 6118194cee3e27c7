"""Published formats of weights, as configs on Hugging Face state them, followed module by module."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roofline import api
from specfiles.errors import InputError
from workloads.catalogue import Loaded, load_model, quantisation
from workloads.checkpoint import AS_ENTRY, AS_OPTION, other_formats, resolved, stored_note
from workloads.config import Config
from workloads.descriptor import Dtypes
from workloads.dtypes import Precision, bytes_per_element
from workloads.families import build
from workloads.phases import Setting, decode, operators, owners, prefill, weight_bytes
from workloads.stored import stored

ASKED = Dtypes(weights="checkpoint")
DENSE, SPARSE = "Llama-3.1-8B", "Qwen3-30B-A3B"


def weights(bits: int, size: int | None, kind: str = "int") -> dict[str, Any]:
    """A scheme of compressed-tensors."""
    return {"num_bits": bits, "type": kind, "group_size": size, "symmetric": True}


def group(stored: Any, inputs: Any = None, *targets: str) -> dict[str, Any]:
    """A group of compressed-tensors."""
    return {"targets": [*targets] or ["Linear"], "weights": stored, "input_activations": inputs}


def tensors(stored: Any, inputs: Any = None, **more: Any) -> dict[str, Any]:
    """What compressed-tensors writes for one group of modules."""
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group(stored, inputs)}, **more}


def torchao(name: str, **data: Any) -> dict[str, Any]:
    """What transformers writes for a scheme of torchao."""
    return {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": name, "_version": 1, "_data": data}},
    }


def published(name: str, quantised: Any, **fields: Any) -> Loaded:
    """A shipped model as somebody published it quantised."""
    config = {**load_model(name).config, "quantization_config": quantised, **fields}
    return Loaded(build(Config(config, name), name), config)


def formats(loaded: Loaded, asked: Dtypes = ASKED) -> dict[str, str] | None:
    """The formats that are not 16 bits; None where the config's are not read."""
    if quantisation(loaded.config) and stored(loaded.config) is None:
        with pytest.raises(InputError, match="a quantization that is not read"):
            resolved(loaded, asked)
        return None
    _, found = resolved(loaded, asked)
    words = {
        "weights": found.weights,
        "activations": found.activations,
        "kv": found.kv,
        "experts": found.experts,
        "expert_activations": found.experts_in,
    }
    return {name: str(word) for name, word in words.items() if word not in (None, "bf16")}


def checkpoint_bytes(loaded: Loaded) -> float:
    """Bytes of the weights in the published formats."""
    model, precision = resolved(loaded, ASKED)
    return weight_bytes(owners(model, Setting(precision)))


# Read from the models' cards: DeepSeek-V3 "FP8 weights, blocks of 128 x 128"; gpt-oss "MoE weights in MXFP4".
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Kimi-K2-Thinking", {"experts": "int4_sym_g32"}),
        ("DeepSeek-V3", {"weights": "fp8_block", "activations": "fp8"}),
        ("gpt-oss-120b", {"experts": "mxfp4"}),
        ("Llama-3.1-8B", {}),
    ],
)
def test_shipped_models_state_how_they_are_published(model: str, expected: dict[str, str]) -> None:
    loaded = load_model(model)
    assert formats(loaded) == expected
    assert not resolved(loaded, ASKED)[0].mixed


@pytest.mark.parametrize(
    ("quantised", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, {"weights": "int4_g128"}),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, {"weights": "int8_g128"}),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, None),
        ({"quant_method": "gptq", "bits": [4], "group_size": 128}, None),
        ({"quant_method": "awq", "bits": 4, "group_size": {}}, None),
        ({"quant_method": "fp8"}, {"weights": "fp8"}),
        ({"quant_method": ["fp8"]}, None),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, None),  # no format of 128 x 128 numbers
        ({"quant_method": "fp8", "activation_scheme": 8}, None),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, None),
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
        (tensors({**weights(4, 128), "num_bits": [4]}), None),
        ({**tensors({}), "config_groups": {"all": {"weights": weights(4, 128), "targets": "Linear"}}}, None),
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
        *(
            (
                {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": scheme},
                {"weights": "fp8", "activations": "fp8", **kept},
            )
            for scheme, kept in [
                ("NVFP4", {"kv": "nvfp4"}),
                ("INT8", {"kv": "int8"}),
                (weights(4, 16, "float"), {"kv": "nvfp4"}),
                (weights(3, 16, "float"), {}),
            ]
        ),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, None),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {"weight": {"dtype": "fp4"}, "input_tensors": None},
            },
            {"weights": "mxfp4"},
        ),
        ({"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp8_e4m3"}]}}, None),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, None),
        (torchao("Float8WeightOnlyConfig"), {"weights": "fp8"}),
        (torchao("Int8DynamicActivationInt8WeightConfig"), {"weights": "int8", "activations": "int8"}),
        (torchao("Int4WeightOnlyConfig", group_size=128), {"weights": "int4_g128"}),
        (torchao("Int4WeightOnlyConfig"), None),
        ({**torchao("Int8WeightOnlyConfig"), "include_input_output_embeddings": True}, None),
        ("fp8", None),
        # A pattern of somebody else that could take for ever, and one that is none.
        ({**tensors(weights(8, None)), "ignore": ["re:(a+)+b"]}, None),
        ({**tensors(weights(8, None)), "ignore": ["re:.*.*.*.*.*.*.*x"]}, None),
        ({**tensors(weights(8, None)), "ignore": ["re:[" + "a"]}, None),
        ({**tensors(weights(8, None)), "ignore": [5]}, None),
    ],
)
def test_other_configs(quantised: Any, expected: dict[str, str] | None) -> None:
    assert formats(published(DENSE, quantised)) == expected


# As NVIDIA, Moonshot AI and RedHat AI write what they leave out, one name for many layers.
ATTENTION = {f"layers.attention.{name}_proj" for name in "qkvo"}
LEFT = [
    ["lm_head", "re:.*self_attn.*", "re:.*mlp.gate$"],
    ["lm_head", *(f"model.layers.{i}.self_attn*" for i in range(48))],
    ["lm_head", *(f"model.language_model.layers.{i}.self_attn.{n}_proj" for i in range(48) for n in "qkvo")],
    ["lm_head", "*self_attn*"],
    ["lm_head", "self_attn", "mtp", "visual"],
]


@pytest.mark.parametrize("left", LEFT)
def test_where_attention_is_left_out_the_format_is_the_experts_or_the_mlp_s(left: list[str]) -> None:
    scheme = weights(4, 16, "float")
    both = published(SPARSE, tensors(scheme, scheme, ignore=left))
    assert formats(both) == {"experts": "nvfp4", "expert_activations": "nvfp4"}
    assert formats(published(SPARSE, tensors(scheme, ignore=left))) == {"experts": "nvfp4"}
    assert not resolved(both, ASKED)[0].mixed
    model, precision = resolved(published(DENSE, tensors(scheme, ignore=left)), ASKED)
    assert precision.weights == "nvfp4"
    (others,) = other_formats(model, precision)
    assert (others["weights"], set(others["operators"])) == ("bf16", ATTENTION)
    # 32 layers of 4096 x (4096 queries and outputs, 1024 keys and values), in 16 bits
    assert others["bytes"] == 32 * 2 * 4096 * (2 * 4096 + 2 * 1024)


@pytest.mark.parametrize("left", [["model.layers.0.mlp.gate"], ["vision_tower.layers.1.self_attn.q_proj"]])
def test_what_is_no_product_of_a_layer_changes_nothing(left: list[str]) -> None:
    loaded = published(SPARSE, tensors(weights(4, 16, "float"), ignore=["lm_head", *left]))
    assert formats(loaded) == {"weights": "nvfp4"}
    assert not resolved(loaded, ASKED)[0].mixed


NARROW = {"decay_in": "f_a", "output_gate_out": "g_b", "out_proj": "o"}
WHOLE = {"decay": "f", "output_gate": "g", "out_proj": "o"}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({}, NARROW),
        ({"model_type": "glm5_next_text", "qk_rope_head_dim": 0}, NARROW),
        ({"model_type": "bailing_hybrid"}, WHOLE),
    ],
    ids=["kimi_linear", "glm5_next", "bailing_hybrid"],
)
def test_modules_of_kimi_delta_attention_go_by_their_names(
    fields: dict[str, Any], parts: dict[str, str]
) -> None:
    """As the families' code in transformers calls them."""
    left = [f"model.layers.0.self_attn.{name}_proj" for name in parts.values()]
    quantised = tensors(weights(8, None, "float"), ignore=["lm_head", *left])
    model, _ = resolved(published("Kimi-Linear-48B-A3B", quantised, **fields), ASKED)
    assert {name: stored for name, stored, _ in model.layers[0].formats} == {
        f"delta.{part}": "bf16" for part in parts
    }
    assert not model.layers[1].formats


def test_groups_have_schemes_of_their_own() -> None:
    """Attention in FP8 and the rest in NVFP4, as three libraries write it; Quark's 4 bits are MXFP4."""
    eight, four = weights(8, None, "float"), weights(4, 16, "float")
    named = {f"model.layers.{i}.self_attn.{n}_proj": {"quant_algo": "FP8"} for i in range(32) for n in "qkvo"}
    named |= {f"model.layers.{i}.mlp": {"quant_algo": "NVFP4", "group_size": 16} for i in range(32)}
    wide = {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"}}
    narrow = {"weight": {"dtype": "fp4"}, "input_tensors": {"dtype": "fp4"}}
    for quantised, rest in (
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"b": group(four, four), "a": group(eight, eight, "re:.*self_attn.*")},
                "ignore": ["lm_head"],
            },
            "nvfp4",
        ),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": named}, "nvfp4"),
        (
            {
                "quant_method": "quark",
                "global_quant_config": narrow,
                "layer_quant_config": {"*self_attn*": wide},
                "exclude": ["lm_head"],
            },
            "mxfp4",
        ),
    ):
        model, precision = resolved(published(DENSE, quantised), ASKED)
        assert (precision.weights, precision.activations) == (rest, rest)
        rows = {row.name: row.operator for row in operators(model, decode(1, 64), Setting(precision))}
        for name, operator in rows.items():
            if name in ATTENTION:
                assert (operator.weights, operator.inputs) == ("fp8", "fp8")  # type: ignore[attr-defined]
            elif name.startswith("layers.mlp.") and name.endswith("_proj"):
                assert (operator.weights, operator.inputs) == (rest, rest)  # type: ignore[attr-defined]
        assert rows["lm_head"].weights == "bf16"  # type: ignore[attr-defined]


def test_a_vocabulary_that_is_quantised_is_counted_as_it_is() -> None:
    """NVIDIA's Qwen3.6-35B-A3B-NVFP4 names lm_head among its quantised layers."""
    named = {"lm_head": {"quant_algo": "W4A16_NVFP4"}, "model.layers.0.mlp": {"quant_algo": "NVFP4"}}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": named}
    model, precision = resolved(published(DENSE, mixed), ASKED)
    assert precision.weights == "bf16"
    own = {row.name: row.operator for row in owners(model, Setting(precision))}["lm_head"]
    assert own.stored_bytes() == 128256 * 4096 * 4.5 / 8


def nemotron_left_out() -> list[str]:
    """hf_quant_config.json of nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4 without its convolutions."""
    return ["lm_head"] + [
        f"backbone.layers.{layer + attends}.mixer.{name}_proj"
        for layer in (4, 11, 18, 25, 32, 41)
        for attends, names in ((0, ("in", "out")), (1, "qkvo"))
        for name in names
    ]


# quantization_config of nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4: layers whose module is in FP8.
SUPER = {
    "in_proj": "0 2 4 6 9 11 13 15 18 20 27 29 31 40 49 51 53 55 57 60 62 66 68 71 73 82 84 86",
    "out_proj": "0 2 4 9 11 13 18 38 40 42 44 49 51 53 55 57 60 62 64 66 68 71 73 75 77 80 82 84 86",
    "shared_experts.up_proj": "1 3 5 8 10 12 14 17 19 21 23 26 28 30 32 34 37 39 43 45 48 50 52 54 56 59 61 "
    "63 65 67 70 72 74 76 79 81 83 85 87",
    "shared_experts.down_proj": "3 5 10 12 14 17 19 21 23 26 28 30 32 34 37 39 41 43 45 48 50 52 54 56 59 61 "
    "63 65 67 70 72 74 79 81 83 85 87",
    "fc1_latent_proj": "1 3 5",
    "fc2_latent_proj": "3",
    "o_proj": "69 78",
}


def super_layers(experts: int) -> dict[str, Any]:
    """Its quantised modules by name, of the routed experts those that are asked for."""
    names = {(int(i), leaf) for leaf, layers in SUPER.items() for i in layers.split()}
    found = {f"backbone.layers.{i}.mixer.{leaf}": {"quant_algo": "FP8"} for i, leaf in sorted(names)}
    sparse = sorted({i for i, leaf in names if leaf.startswith("shared")})
    assert (len(found), len(sparse)) == (139, 40)
    four = [f"{i}.mixer.experts.{e}.{n}_proj" for i in sparse for e in range(experts) for n in ("up", "down")]
    for name in ("1.mixer.shared_experts.down_proj", *four):
        found[f"backbone.layers.{name}"] = {"quant_algo": "NVFP4", "group_size": 16}
    return found


# Bytes of all tensors: `total_size` of model.safetensors.index.json of openai/gpt-oss-120b and 20b; the sums
# over the headers of NVIDIA's two checkpoints, and what of them is not counted as weights of the model.
def test_published_checkpoints_have_the_predicted_bytes() -> None:
    assert checkpoint_bytes(load_model("gpt-oss-120b")) == 65_248_815_744
    assert checkpoint_bytes(load_model("gpt-oss-20b")) == 13_761_264_768


def test_the_modules_that_nemotron_nano_leaves_in_16_bits_are_followed_to_the_byte() -> None:
    quantised = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    loaded = published("Nemotron-3-Nano-30B-A3B", {**quantised, "exclude_modules": nemotron_left_out()})
    routers = 23 * 128 * (2688 * 2 + 4)  # in fp32, not 16 bits, and a bias for each expert
    scales = 5968 * (4 + 4)  # of each quantised matrix: for all of it, and for its inputs
    assert checkpoint_bytes(loaded) + routers + scales == 19_339_781_632
    assert formats(loaded) == {"weights": "nvfp4", "activations": "nvfp4", "kv": "fp8"}


def test_formats_that_nemotron_super_mixes_are_followed_to_the_byte() -> None:
    quantised = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "quantized_layers": super_layers(experts=512),
        "ignore": [],
    }
    loaded = published("Nemotron-3-Super-120B-A12B", quantised)
    scales = 40_961 * 8 + 139 * 8 + 16 * 4  # of matrices in NVFP4 and FP8, and of the caches of 8 layers
    biases = 40 * 512 * 4
    width, latent, inner, shared = 4096, 1024, 2688, 5376
    draft = 2 * (  # in 16 bits: an attention and a sparse layer, whose router's bias has 32
        width * (2 * width + 2 * 256)
        + 512 * (2 * inner * latent + width + 2)
        + 2 * width * (shared + latent)
        + 2 * width * width  # of the token and the features before it
        + 5 * width  # norms
    )
    assert checkpoint_bytes(loaded) + scales + biases + draft == 80_297_329_824


def test_deepseek_v3_is_its_files_without_the_draft_and_their_headers() -> None:
    """deepseek-ai/DeepSeek-V3: 163 files of 688.59 GB in all, whose headers name 91,991 tensors."""
    one, files = load_model("DeepSeek-V3"), 688_586_727_753
    longer = published("DeepSeek-V3", one.config["quantization_config"], num_hidden_layers=62)
    layer = checkpoint_bytes(longer) - checkpoint_bytes(one)
    copies = 2 * 129_280 * 7168 * 2  # of the embedding and the projection to the vocabulary
    draft = layer + copies + 2 * 7168 * 7168 * 2
    headers = files - checkpoint_bytes(one) - draft
    assert 100 < headers / 91_991 < 200  # name, format, shape and place of a tensor


def test_a_hybrid_with_its_recurrent_mixers_left_out_is_as_large_as_its_card_says() -> None:
    """Card of xega-ai/Qwen3.5-35B-A3B-FP8-Dynamic, without its tower: 32.61 GB in FP8, 4.16 GB in 16 bits."""
    scheme = {**weights(8, None, "float"), "strategy": "channel"}
    left = ["lm_head", "re:.*gate$", "re:.*shared_expert_gate$", "re:.*linear_attn.*"]
    model, precision = resolved(published("Qwen3.5-35B-A3B", tensors(scheme, scheme, ignore=left)), ASKED)
    rows = [row for row in owners(model, Setting(precision)) if not row.name.startswith("vision.")]
    eight = [row for row in rows if getattr(row.operator, "weights", "") == "fp8"]
    assert weight_bytes(eight) / 1e9 == pytest.approx(32.61, abs=0.005)
    scales = 40 * 256 * (512 + 512 + 2048) * 2  # a row's of each expert, in 16 bits
    wide = weight_bytes(rows) - weight_bytes(eight)
    assert (wide + scales) / 1e9 == pytest.approx(4.16, abs=0.005)


def test_a_large_config_is_read_in_one_go(tmp_path: Path) -> None:
    """Each of 41,100 modules by name, twice, is the 5.7 MB of Nemotron 3 Super's config."""
    layers = super_layers(experts=512)
    targets = [name for name, entry in layers.items() if entry["quant_algo"] == "NVFP4"]
    quantised = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "config_groups": {"group_1": {"weights": weights(4, 16, "float"), "targets": targets}},
        "quantized_layers": layers,
    }
    config = {**load_model("Nemotron-3-Super-120B-A12B").config, "quantization_config": quantised}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (tmp_path / "config.json").stat().st_size > 4_000_000
    assert formats(load_model(tmp_path)) == {
        "weights": "fp8",
        "activations": "fp8",
        "experts": "nvfp4",
        "expert_activations": "nvfp4",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"activations": "bf16"}, {"weights": "fp8_block"}),
        ({"kv": "fp8"}, {"weights": "fp8_block", "activations": "fp8", "kv": "fp8"}),
        ({"experts": "int4_g128"}, {"weights": "fp8_block", "activations": "fp8", "experts": "int4_g128"}),
    ],
)
def test_what_is_given_beside_it_wins(given: dict[str, str], expected: dict[str, str]) -> None:
    assert formats(load_model("DeepSeek-V3"), ASKED.replace(**given)) == expected


def test_given_activations_leave_modules_in_16_bits_as_they_are() -> None:
    scheme = weights(8, None, "float")
    loaded = published(DENSE, tensors(scheme, scheme, ignore=["lm_head", "re:.*self_attn.*"]))
    model, precision = resolved(loaded, ASKED.replace(activations="int8"))
    inputs = {r.name: r.operator.inputs for r in owners(model, Setting(precision)) if r.name[-5:] == "_proj"}  # type: ignore[attr-defined]
    assert {name: word for name, word in inputs.items() if name in ATTENTION} == dict.fromkeys(
        ATTENTION, "bf16"
    )
    assert inputs["layers.mlp.up_proj"] == "int8"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"torch_dtype": "float16"}, "fp16"),
        ({"dtype": "float32"}, "fp32"),
        ({"torch_dtype": "torch.bfloat16"}, "bf16"),
        ({"text_config": {"dtype": "float16"}}, "fp16"),
        ({}, "bf16"),
    ],
)
def test_a_checkpoint_that_is_not_quantised_has_its_dtype(fields: dict[str, Any], expected: str) -> None:
    model = load_model(DENSE).model
    _, precision = resolved(Loaded(model, fields), ASKED)
    assert precision == Precision.of(expected)
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    _, narrow = resolved(Loaded(model, {**fields, "quantization_config": awq}), ASKED)
    assert (narrow.weights, narrow.activations, narrow.kv) == ("int4_g128", expected, expected)


@pytest.mark.parametrize("name", ["activations", "kv", "expert_weights", "expert_activations"])
def test_only_weights_are_asked_for_as_in_the_checkpoint(name: str) -> None:
    with pytest.raises(InputError, match="checkpoint is a format of weights alone"):
        api.predict(DENSE, "h100", **{name: "checkpoint"})


def test_a_model_without_its_config_has_no_checkpoint() -> None:
    with pytest.raises(InputError, match="checkpoint needs a model with its config"):
        api.predict(load_model(DENSE).model, "h100", weights="checkpoint")


def test_modelopt_may_state_formats_in_a_file_of_its_own(tmp_path: Path) -> None:
    config = load_model(DENSE).config
    (tmp_path / "config.json").write_text(json.dumps(config))
    stated = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": stated}))
    assert formats(load_model(tmp_path)) == {"weights": "fp8", "activations": "fp8", "kv": "fp8"}
    own = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": own}))
    assert formats(load_model(tmp_path)) == {"weights": "int4_g128"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": []}))
    assert formats(load_model(tmp_path)) == {}


def test_experts_of_kimi_are_as_large_as_their_tensors() -> None:
    """Eight 4-bit numbers in an int32 and a 16-bit scale for 32 of them, without zero points."""
    hidden, width = 7168, 2048
    torch = pytest.importorskip("torch")
    packed = torch.empty(width, hidden // 8, dtype=torch.int32)
    scales = torch.empty(width, hidden // 32, dtype=torch.bfloat16)
    assert hidden * width * bytes_per_element("int4_sym_g32") == packed.nbytes + scales.nbytes


def note(loaded: Loaded, precision: Precision, said: Any = AS_OPTION) -> str | None:
    return stored_note(loaded, loaded.model, precision, said)


def test_a_quantization_that_is_not_known_is_said() -> None:
    loaded = published(DENSE, {"quant_method": "torchao"})
    said = f"{DENSE} is predicted in bf16; its config states a quantization that is not read here: "
    said += "give --weights FORMAT."
    assert note(loaded, Precision()) == said
    assert note(loaded, Precision.of("int8")) is None
    assert note(load_model(DENSE), Precision()) is None


def test_nothing_is_said_to_who_chose() -> None:
    loaded = load_model("gpt-oss-20b")
    asked = [("--weights checkpoint", AS_OPTION), ("{weights: checkpoint} in dtypes", AS_ENTRY)]
    for words, said in asked:
        told = note(loaded, Precision(), said) or ""
        assert told.endswith(f"narrower (bf16, experts mxfp4): {words}.")
    assert note(loaded, Precision.of("bf16", experts="mxfp4")) is None
    assert note(loaded, Precision.of("fp8")) is None
    mixed = published(DENSE, tensors(weights(4, 128), ignore=["lm_head", "re:.*self_attn.*"]))
    model, precision = resolved(mixed, ASKED)
    assert stored_note(mixed, model, precision, AS_OPTION) is None


# Llama 3.1 (and 3) 8B. vLLM's documentation of FP8: "Loading model weights took 8.4596 GB" (its GB are GiB);
# a log of vLLM with AWQ: 5.3440; model.safetensors of unsloth/meta-llama-3.1-8b-instruct-bnb-4bit: 5.70 GB.
@pytest.mark.parametrize(
    ("format", "bytes_published"),
    [("bf16", 16.06e9), ("fp8", 8.4596 * 2**30), ("int4_g128", 5.344 * 2**30), ("nf4", 5.70e9)],
)
def test_published_checkpoints_keep_their_vocabulary_in_sixteen_bits(
    format: str, bytes_published: float
) -> None:
    model, setting = load_model(DENSE).model, Setting(Precision.of(format))
    assert weight_bytes(owners(model, setting)) == pytest.approx(bytes_published, rel=0.003)


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
    loaded = load_model("gpt-oss-20b")
    assert note(loaded, Precision.of("mxfp4")) == (
        "gpt-oss-20b is predicted with all weights in mxfp4, which only its published experts have: "
        "--weights checkpoint."
    )
    assert note(loaded, Precision.of("int4_g128")) is None  # a choice
    assert note(load_model("DeepSeek-V3"), Precision.of("fp8_block")) is None


def test_vision_towers_keep_sixteen_bits() -> None:
    """As in Qwen's FP8 checkpoints, whose `modules_to_not_convert` names all of `model.visual`."""
    model = load_model("Qwen3.5-27B").model
    narrow = Precision.of("nvfp4", "nvfp4", "fp8")
    wide, quantised = (
        {row.name: row for row in owners(model, Setting(precision)) if row.name.startswith("vision.")}
        for precision in (Precision(), narrow)
    )
    assert wide == quantised
    step = replace(prefill(1, 2048), images=1)
    asked = {row.name: row.operator for row in operators(model, step, Setting(narrow))}
    assert asked["vision.layers.mlp.up_proj"].inputs == "bf16"  # type: ignore[attr-defined]
    assert asked["layers.mlp.up_proj"].inputs == "nvfp4"  # type: ignore[attr-defined]
    options = {"phase": "prefill", "prompt": 2048, "images": 1, "techniques": ["fp8"]}
    table = api.predict("Qwen3.5-27B", "h100", **options).table().set_index("name")
    plain = api.predict("Qwen3.5-27B", "h100", **{**options, "techniques": []}).table().set_index("name")
    ratio = table["weight_bytes"] / plain["weight_bytes"]
    assert ratio["vision.layers.mlp.up_proj"] == 1
    assert ratio["layers.mlp.up_proj"] == 0.5
