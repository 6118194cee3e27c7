"""Configs from anywhere: wrong, contradictory or hostile ones end in one sentence, never in a guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specfiles.errors import InputError
from workloads.blocks import AttentionBlock
from workloads.catalogue import MODELS, Loaded, agrees, load_model, unread_towers
from workloads.config import Config
from workloads.families import FAMILIES, build, decoder_fields
from workloads.model import Model
from workloads.phases import active_parameters, decode, operators, parameters

GOOD: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
GPT: dict[str, Any] = {"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 8, "vocab_size": 100}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "ffn_dim": 96,
    "vocab_size": 100,
}
JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JUNK |= st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)


def refusal(fields: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        build(Config(fields, "config.json"), "x")
    sentence = str(error.value)
    assert sentence.startswith("config.json")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
@pytest.mark.parametrize("value", ["4096", 0, -1, 1.5, True, [1], {"a": 1}, 10**18, float("nan")], ids=repr)
def test_a_size_that_is_none(field: str, value: Any) -> None:
    sentence = refusal({**GOOD, field: value})
    assert f"field '{field}' is {value!r}" in sentence
    assert "expected a whole number from 1 to" in sentence


@pytest.mark.parametrize("good", [GOOD, GPT, OPT], ids=lambda good: good["model_type"])
def test_a_missing_field_is_named(good: dict[str, Any]) -> None:
    build(Config(good, "config.json"), "x")
    for field in set(good) - {"max_position_embeddings", "num_key_value_heads"}:
        for fields in ({k: v for k, v in good.items() if k != field}, {**good, field: None}):
            sentence = refusal(fields)
            assert f"'{field}' is missing" in sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads 8 is not divisible by num_key_value_heads 3"),
        (
            {"num_attention_heads": 7, "num_key_value_heads": 7},
            "hidden_size 64 is not divisible by num_attention_heads 7",
        ),
        ({"head_dim": -1}, "field 'head_dim' is -1"),
        ({"attention_bias": "yes"}, "field 'attention_bias' is 'yes'; expected true or false"),
        ({"hidden_act": 5}, "field 'hidden_act' is 5; expected a string"),
        ({"partial_rotary_factor": float("nan")}, "field 'partial_rotary_factor' is nan"),
        (
            {"layer_types": ["full_attention"] * 3},
            "field 'layer_types' has 3 entries; expected one per layer, 4",
        ),
        ({"layer_types": "full_attention"}, "field 'layer_types' has 'full_attention'"),
        (
            {"layer_types": ["full_attention"] * 3 + ["telepathy"]},
            "field 'layer_types' is 'telepathy'; expected one of sliding_attention, full_attention per layer",
        ),
        ({"layer_types": [["full_attention"]] * 4}, "field 'layer_types' is ['full_attention']"),
    ],
)
def test_wrong_or_contradictory_fields(changes: dict[str, Any], said: str) -> None:
    assert said in refusal({**GOOD, **changes})


def test_heads_of_gpt_and_opt_divide_the_width() -> None:
    assert "n_embd 64 is not divisible by n_head 7" in refusal({**GPT, "n_head": 7})
    assert "hidden_size 64 is not divisible by num_attention_heads 7" in refusal(
        {**OPT, "num_attention_heads": 7}
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lama", "model_type 'lama' is not known; the nearest known one is 'llama'"),
        ("lama", "or trace its module with --from-module MODULE:FUNCTION."),
        ("qwen33", "the nearest known one is 'qwen3'"),
        (
            "foo_llm",
            "if its layers are those of a known one (`roofline models families`), name that in the file",
        ),
        ("", f"known: {', '.join(sorted(FAMILIES))}"),
        (None, "field 'model_type' is missing"),
        (["llama"], "field 'model_type' is ['llama']; expected a string"),
    ],
)
def test_an_unknown_kind_of_model(kind: Any, said: str) -> None:
    assert said in refusal({**GOOD, "model_type": kind})


def test_a_long_value_is_cut_in_the_sentence() -> None:
    assert len(refusal({**GOOD, "hidden_size": "9" * 100_000})) < 200


@given(
    st.sampled_from([GOOD, GPT, OPT]).flatmap(
        lambda good: st.tuples(st.just(good), st.sampled_from(sorted(good)), JUNK)
    )
)
def test_whatever_stands_in_a_field_there_is_a_model_or_a_sentence(
    case: tuple[dict[str, Any], str, Any],
) -> None:
    good, field, value = case
    try:
        model = build(Config({**good, field: value}, "config.json"), "x")
    except InputError:  # any other exception fails the test
        return
    assert parameters(model) > 0
    assert all(row.operator.work().bytes >= 0 for row in operators(model, decode(1, 7)))


ONE_EACH = {loaded.model.family: decoder_fields(loaded.config) for loaded in map(load_model, MODELS)}


@settings(max_examples=400)
@given(st.sampled_from(sorted(ONE_EACH)), st.data())
def test_any_family_with_anything_in_any_field(family: str, data: st.DataObject) -> None:
    """Also in what a field holds: a shipped config of each family, one of its values exchanged."""
    fields = dict(ONE_EACH[family])
    field = data.draw(st.sampled_from(sorted(fields)))
    inner = fields[field]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        value: Any = {**inner, data.draw(st.sampled_from(sorted(inner))): data.draw(JUNK)}
    elif isinstance(inner, list) and inner and data.draw(st.booleans()):
        value = [*inner[:-1], data.draw(JUNK)]
    else:
        value = data.draw(JUNK)
    try:
        model = build(Config({**fields, field: value}, "config.json"), "x")
    except InputError as error:  # any other exception fails the test
        sentence = str(error)
        assert sentence.startswith("config.json")
        assert sentence.endswith(".")
        assert "\n" not in sentence
        return
    assert parameters(model) >= active_parameters(model) > 0


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok 9 is above num_local_experts 8"),
        ("qwen3_moe", {"mlp_only_layers": [99]}, "field 'mlp_only_layers' is 99; expected layers from 0 to"),
        ("qwen3_moe", {"mlp_only_layers": 3}, "field 'mlp_only_layers' is 3; expected a list of layers"),
        (
            "llama4_text",
            {"no_rope_layers": [1] * 47},
            "'no_rope_layers' has 47 entries; expected one per layer",
        ),
        ("llama4_text", {"no_rope_layers": [2] * 48}, "'no_rope_layers' is 2; expected 0 or 1 per layer"),
        ("dbrx", {"ffn_config": 3}, "field 'ffn_config' is 3; expected a mapping"),
        ("dbrx", {"attn_config": {"kv_n_heads": 7}}, "n_heads 48 is not divisible by kv_n_heads 7"),
        ("nemotron-nas", {"block_configs": []}, "'block_configs' has 0 entries; expected one per layer"),
        ("nemotron-nas", {"block_configs": [None] * 80}, "field 'n_heads_in_group' is missing"),
        ("mpt", {"no_bias": False}, "field 'no_bias' is False; expected true"),
        (
            "gpt_neo",
            {"attention_types": [[["global"], 3]]},
            "'attention_types' is [[['global'], 3]]; expected",
        ),
        (
            "gpt_neo",
            {"attention_types": [[["local", "far"], 1]]},
            "expected pairs of a list of global and local",
        ),
        (
            "nemotron_h",
            {"layers_block_type": "mamba"},
            "'layers_block_type' has 'mamba'; expected one per layer, ",
        ),
        ("diffllama", {"num_key_value_heads": 1}, "'num_key_value_heads' is 1; expected an even number"),
        ("minimax_m1", {}, "'attn_type_list' is None; expected 0 or 1 per layer"),
        ("minimax", {"shared_intermediate_size": 9}, "'shared_intermediate_size' is 9; expected 0"),
        ("deepseek_v4", {"compress_ratios": [4, 16] * 8}, "'compress_ratios' is"),
        ("deepseek_v4", {"compress_ratios": [[]] * 61}, "'compress_ratios' is"),
        ("kimi_linear", {"linear_attn_config": {"kda_layers": [1]}}, "each of the layers 1 to"),
        ("kimi_linear", {"linear_attn_config": {"kda_layers": [[]]}}, "each of the layers 1 to"),
        ("gemma4_text", {"per_layer_config": {"a": {"b": 1}}}, "fields by number of layer, one of them of"),
        ("gemma4_text", {"per_layer_config": {"999": {"head_dim": 1}}}, "fields by number of layer"),
        (
            "minimax_m3",
            {
                "sparse_attention_config": {
                    "sparse_attention_freq": [1] * 60,
                    "sparse_disable_index_value": [0] * 60,
                }
            },
            "expected 1 in each layer that picks blocks",
        ),
        ("longcat_flash", {"zero_expert_type": "copy"}, "'zero_expert_type' is 'copy'; expected identity"),
        ("inkling_text", {"use_sconv": False}, "'use_sconv' is False; expected true"),
        ("laguna", {"gating": "none"}, "'gating' is 'none'; expected true"),
        ("step3p5", {"moe_layers_enum": "a,b"}, "'moe_layers_enum' is 'a,b'; expected numbers"),
        (
            "gemma4_text",
            {"use_bidirectional_attention": "all"},
            "'use_bidirectional_attention' is 'all'; exp",
        ),
        (
            "gemma3n_text",
            {"activation_sparsity_pattern": [1] * 35},
            "'activation_sparsity_pattern' is 1; expected a number from 0 and below 1 per layer",
        ),
        ("gemma3n_text", {"num_kv_shared_layers": 32}, "'num_kv_shared_layers' is 32; expected before them"),
        (
            "glm_moe_dsa",
            {"index_topk_pattern": "FX"},
            "'index_topk_pattern' is 'FX'; expected F or S for each",
        ),
        (
            "glm_moe_dsa",
            {"num_hidden_layers": 2, "indexer_types": ["shared", "full"]},
            "'indexer_types' is ['shared', 'full']; expected full in the first layer",
        ),
    ],
)
def test_fields_of_experts_and_layers(family: str, changes: dict[str, Any], said: str) -> None:
    assert said in refusal({**ONE_EACH.get(family, GOOD), "model_type": family, **changes})


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("glm_moe_dsa", {"num_hidden_layers": 2, "indexer_types": ["full", "full"]}),
        ("qwen2_moe", {"sliding_window": 0}),  # as transformers saves it where use_sliding_window is false
    ],
)
def test_a_saved_default_changes_nothing(family: str, changes: dict[str, Any]) -> None:
    fields = {**ONE_EACH[family], **{name: changes[name] for name in changes if name == "num_hidden_layers"}}
    plain = build(Config(fields, "x"), "x")
    assert build(Config({**fields, **changes}, "x"), "x") == plain


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "field 'model_type' is missing"),
        ('{"config": {}, "published": {}}', "key 'name' is missing"),
    ],
    ids=["empty", "half-shipped"],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"config\.json") as error:
        load_model(tmp_path)
    assert said in str(error.value)


def test_towers_that_are_not_read_are_named() -> None:
    fields = load_model("Qwen3.5-27B").config
    assert unread_towers(load_model("Qwen3.5-27B")) is None
    both = {**fields, "audio_config": {}}
    said = unread_towers(Loaded(build(Config(both, "x"), "x"), both))
    assert said == "x is predicted as its decoder alone, without memory and time of its audio_config."
    alone = {**fields, "model_type": "minicpmv4_6"}
    said = unread_towers(Loaded(build(Config(alone, "x"), "x"), alone))
    assert said is not None
    assert said.endswith(" of its vision_config.")


def test_a_decoder_of_known_towers_behind_another_is_read_alone() -> None:
    """MiniCPM-V 4.6: Qwen3.5's decoder behind a tower of its own."""
    fields = load_model("Qwen3.5-27B").config
    whole = {**fields, "model_type": "minicpmv4_6", "vision_config": {"model_type": "minicpmv4_6_vision"}}
    assert build(Config(whole, "x"), "x").stack == load_model("Qwen3.5-27B").model.stack


def test_infinity_that_python_writes_is_null_in_fields_that_are_told(tmp_path: Path) -> None:
    """transformers saves limits of time steps as [0.0, Infinity], which is no JSON."""
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({**GOOD, "time_step_limit": [0.0, float("inf")], "inside": {"a": float("nan")}})
    )
    loaded = load_model(tmp_path)
    assert loaded.config["time_step_limit"] == [0.0, float("inf")]
    assert loaded.fields() == {**GOOD, "time_step_limit": [0.0, None], "inside": {"a": None}}


def test_a_misspelt_key_of_a_model_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    published = {"parms": 1, "source": "me"}
    file.write_text(json.dumps({"name": "m", "config_source": "me", "published": published, "config": GOOD}))
    with pytest.raises(InputError, match=r"unknown key 'published.parms'; did you mean 'params'\?"):
        load_model(file)


@pytest.mark.parametrize("name", ["text_config", "thinker_config", "language_config", "llm_config"])
def test_a_decoder_is_read_where_a_config_keeps_it(name: str) -> None:
    """Beside other parts, or with its encoders one level deeper (Qwen's omni models)."""
    own = ours_of(GOOD)
    assert ours_of({"model_type": "whole", "talker_config": {"hidden_size": 9}, name: GOOD}) == own
    deeper = {"model_type": "part", "audio_config": {"hidden_size": 9}, "text_config": GOOD}
    assert ours_of({"model_type": "whole", name: deeper}) == own


def test_the_decoder_of_mistral_large_3_is_deepseeks_and_its_tower_is_not_read() -> None:
    """Published: 675B, of which 41B for a token, with a tower of 2.5B (mistral.ai/news/mistral-3)."""
    decoder = {
        **{"model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "vocab_size": 131_072},
        **{"num_attention_heads": 128, "intermediate_size": 16_384, "moe_intermediate_size": 4096},
        **{"n_routed_experts": 128, "num_experts_per_tok": 4},
    }
    model = ours_of({"model_type": "mistral3", "text_config": decoder, "vision_config": {"hidden_size": 1}})
    tower = 2_500_000_000
    assert agrees(parameters(model) + tower, "675B")
    assert agrees(active_parameters(model, "without input embedding") + tower, "41B")


def ours_of(fields: dict[str, Any]) -> Model:
    return build(Config(fields, "c"), "x")


def test_a_multimodal_config_is_its_decoder() -> None:
    vision = {"model_type": "gemma3", "vision_config": {"hidden_size": 1}, "text_config": GOOD}
    assert parameters(build(Config(vision, "c"), "x")) == parameters(build(Config(GOOD, "c"), "x"))
    with pytest.raises(InputError, match=r"c \(text_config\): field 'vocab_size' is 'many'"):
        build(Config({**vision, "text_config": {**GOOD, "vocab_size": "many"}}, "c"), "x")


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ({"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}, 3_880_263_168),
        (
            {
                **{"hidden_size": 3840, "intermediate_size": 15_360, "num_hidden_layers": 48},
                **{"num_attention_heads": 16, "num_key_value_heads": 8},
            },
            11_766_034_176,
        ),
    ],
)
def test_gemma_3_is_read_as_published(said: dict[str, int], count: int) -> None:
    """Decoders of 4B and 12B leave out what Gemma3TextConfig has by default: 64 rows more than tokens."""
    decoder = {"model_type": "gemma3_text", "sliding_window": 1024, **said}
    model = ours_of({"model_type": "gemma3", "text_config": decoder})
    assert parameters(model) == count
    assert model.max_position == 131_072
    assert [b.window for layer in model.layers[:6] for b in layer.blocks[:1]] == [*[1024] * 5, None]  # type: ignore[attr-defined]


def windows(**changes: Any) -> list[int | None]:
    layers = build(Config({**GOOD, **changes}, "c"), "x").layers
    return [layer.find(AttentionBlock).window for layer in layers]


def test_which_layers_have_a_window() -> None:
    """The rules of the reference implementations, one by one."""
    pattern = ["sliding_attention", "full_attention"] * 2
    assert windows() == [None] * 4
    assert windows(model_type="mistral", sliding_window=16) == [16] * 4
    assert windows(model_type="mistral", sliding_window=None) == [None] * 4
    assert windows(model_type="gemma2", sliding_window=16) == [16, None, 16, None]
    assert windows(model_type="gemma3_text", num_hidden_layers=7, sliding_window=16) == [*[16] * 5, None, 16]
    assert windows(model_type="gemma3_text", sliding_window=16, sliding_window_pattern=2) == [16, None] * 2
    listed = {"model_type": "gemma3_text", "layer_types": pattern}
    assert windows(**listed, sliding_window=16) == [16, None, 16, None]
    assert windows(**listed, sliding_window=None) == [None] * 4
    assert windows(sliding_window=16) == [None] * 4  # Llama's attention knows no window
    assert windows(model_type="qwen2", sliding_window=16) == [None] * 4  # the flag decides
    flagged = {"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": True}
    assert windows(**flagged, max_window_layers=3) == [None, None, None, 16]


TOWER = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
    "image_size": 32,
    "patch_size": 4,
    "projector_input_dim": 58,
    "projector_output_dim": 58,
}
CONTRADICTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("Jamba-v0.1", {"attn_layer_offset": 8}, "attn_layer_offset 8 is above attn_layer_period - 1 = 7"),
    ("Jamba-v0.1", {"hidden_act": "x"}, "field 'hidden_act' is 'x'; expected one of gelu, gelu_fast"),
    ("T5-small", {"feed_forward_proj": "gated-x"}, "field 'feed_forward_proj' is 'x'; expected one of"),
    ("OPT-125m", {"_remove_final_layer_norm": True}, "'_remove_final_layer_norm' is True; expected false"),
    ("GPT-2", {"add_cross_attention": True}, "'add_cross_attention' is True; expected false"),
    ("Gemma-3-1b", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is True; expected"),
    ("BigBird-RoBERTa-base", {"use_bias": False}, "field 'use_bias' is False; expected true"),
    ("Mamba-2-2.7B", {"hidden_act": "relu"}, "field 'hidden_act' is 'relu'; expected silu"),
    ("Nemotron-H-8B", {"mamba_hidden_act": "gelu"}, "field 'mamba_hidden_act' is 'gelu'; expected silu"),
    ("Longformer-base-4096", {"attention_window": 511}, "field 'attention_window' is 511; expected even"),
    ("Llama-3.1-8B", {"rotary_dim": 129}, "rotary_dim 129 is above head_dim 128"),
    ("GPT-J-6B", {"rotary_dim": 257}, "rotary_dim 257 is above n_embd / n_head = 256"),
    ("Qwen3-Next-80B-A3B", {"rope_parameters": [1]}, "field 'rope_parameters' is [1]; expected a mapping"),
    ("Qwen3.5-27B", {"vision_config": {"spatial_merge_size": 10**7}}, "is not divisible by merged patches"),
    (
        "Qwen3.5-27B",
        {"vision_config": {"out_hidden_size": 3}},
        "out_hidden_size is 3; expected the decoder's",
    ),
    ("Llama-4-Scout", {"vision_config": [1]}, "field 'vision_config' is [1]; expected a mapping"),
    ("Llama-4-Scout", {"vision_config": {**TOWER, "patch_size": 33}}, "patch_size 33 is above image_size 32"),
    (
        "Llama-4-Scout",
        {"vision_config": {**TOWER, "pixel_shuffle_ratio": 1e-300}},
        "field 'pixel_shuffle_ratio' is 1e-300; expected at least 1 / 8",
    ),
    (
        "Llama-4-Scout",
        {"vision_config": {**TOWER, "intermediate_size": 191}},
        "field 'intermediate_size' is 191; expected hidden_size x 4 shuffled patches, 192",
    ),
    (
        "DeepSeek-V3",
        {"vision_config": {**TOWER, "merge_kernel_size": [2, -2]}},
        "field 'merge_kernel_size' is -2; expected a whole number from 1 to 64",
    ),
    ("Nemotron-H-8B", {"hybrid_override_pattern": "M-M*"}, "expected one of M, *, -, E per layer, 52"),
    ("Nemotron-H-8B", {"hybrid_override_pattern": "X" * 52}, "expected one of M, *, -, E per layer, 52"),
    ("RWKV-7-0.1B", {"head_dim": 7}, "attention_hidden_size 768 is not divisible by head_size 7"),
    ("RWKV-7-0.1B", {"a_low_rank_dim": None}, "field 'a_low_rank_dim' is missing"),
]


@pytest.mark.parametrize(("name", "changes", "said"), CONTRADICTIONS)
def test_what_contradicts_itself_is_not_guessed(name: str, changes: dict[str, Any], said: str) -> None:
    fields = dict(load_model(name).config)
    for key, value in changes.items():
        inner = fields.get(key)
        fields[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    assert said in refusal(fields)
