"""Published formats of weights, as configs on Hugging Face state them."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.stored import as_entry, as_options, stored_formats, stored_note


# Read from the models' cards: DeepSeek-V3 "FP8 weights, blocks of 128 x 128"; gpt-oss "MoE weights in MXFP4".
@pytest.mark.parametrize(
    ("model", "formats"),
    [
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
        ("fp8", None),
    ],
)
def test_other_configs(quantised: Any, formats: dict[str, str] | None) -> None:
    assert stored_formats({"quantization_config": quantised}) == formats


def test_a_quantization_that_is_not_known_is_said() -> None:
    config = {"quantization_config": {"quant_method": "bitsandbytes"}}
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
