"""The ledger accounts for every byte of a prediction, and its elements are those of the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwspecs import load_device
from roofline import api
from roofline.ledger import COLUMNS, formulas, ledger, totals
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from tests.workloads.techniques.asking import with_links
from workloads.catalogue import MODELS, load_model
from workloads.convention import CONVENTIONS
from workloads.dtypes import Precision
from workloads.phases import Setting

DEVICE = load_device("h100_sxm")
LLAMA = load_model("Llama-3.1-8B").model
HIDDEN, WIDTH, VOCABULARY, KV_HEADS, DIM, LAYERS = 4096, 14336, 128256, 8, 128, 32


def predicted(phase: str = "decode", **changes: Any) -> Prediction:
    return predict(Scenario(LLAMA, phase, **{"batch": 3, "prompt": 500, **changes}), DEVICE)


@pytest.mark.parametrize("convention", list(CONVENTIONS))
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("weights", ["bf16", "fp8", "int4"])
def test_the_sums_are_the_totals_to_the_byte(phase: str, weights: str, convention: str) -> None:
    setting = Setting(Precision.of(weights), CONVENTIONS[convention], tensor_parallel=2)
    prediction = predicted(phase, setting=setting)
    sums = totals(ledger(prediction))
    assert sums["bytes"] == prediction.total("bytes") == prediction.totals()["bytes"]
    assert sums["weight"] == prediction.total("weight_bytes")
    assert sums["kv_read"] + sums["kv_write"] == prediction.total("kv_bytes")
    assert sums["input"] + sums["output"] + sums["scores"] == prediction.total("activation_bytes")
    assert sums["wire"] == prediction.total("comm_bytes") > 0


@pytest.mark.parametrize(
    ("model", "technique"),
    [
        ("Llama-3.1-8B", "flexgen:weights_host=80"),
        ("Llama-3.1-8B", "flexgen:attention=host"),
        ("Mixtral-8x7B", "expert-offloading:compute=host"),
    ],
)
def test_what_passes_links_is_no_traffic_of_the_device(model: str, technique: str) -> None:
    device = with_links(DEVICE, disk=5e9, host_memory=3e11)
    prediction = api.predict(model, device, prompt=500, output=20, techniques=[technique])
    sums = totals(ledger(prediction))
    assert sums["bytes"] == pytest.approx(prediction.total("bytes"), rel=1e-14)
    for role in ("host", "disk", "host_memory"):
        assert sums[role] == pytest.approx(prediction.total(f"{role}_bytes"), rel=1e-14)
    assert sums["host"] + sums["host_memory"] > 0


def test_time_of_an_engine_moves_nothing() -> None:
    prediction = api.predict("Llama-3.1-8B", "h100", output=20, engine="eager")
    sums = totals(ledger(prediction))
    assert sums["bytes"] == pytest.approx(prediction.total("bytes"), rel=1e-14)


@pytest.mark.parametrize("path", MODELS.paths(), ids=lambda path: path.stem)
def test_every_model_is_accounted_for(path: Path) -> None:
    """Where experts are an expectation, to the last digit of a float."""
    model = load_model(path).model
    prediction = predict(Scenario(model, model.usual_phase, 2, model.audio_window or 100, output=20), DEVICE)
    rows = ledger(prediction)
    assert totals(rows)["bytes"] == pytest.approx(prediction.total("bytes"), rel=1e-14)
    for row in rows:
        assert list(row) == list(COLUMNS)
        assert row["total_bytes"] == row["count"] * row["bytes"]
        if row["elements"] is not None:
            assert row["bytes"] == pytest.approx(row["elements"] * row["bytes_per_element"], rel=1e-14)
    assert all(formulas(prediction).values())


def test_elements_are_those_of_the_tensors() -> None:
    rows = {(row["operator"], row["tensor"]): row for row in ledger(predicted("decode", context=700))}
    assert rows["layers.mlp.gate_proj", "weight"]["elements"] == HIDDEN * WIDTH
    assert rows["layers.mlp.gate_proj", "weight"]["count"] == LAYERS
    assert rows["layers.mlp.down_proj", "input"]["elements"] == 3 * WIDTH
    assert rows["layers.attention.core", "key"]["elements"] == 3 * 700 * KV_HEADS * DIM
    assert rows["layers.attention.kv_append", "cache"]["elements"] == 2 * 3 * KV_HEADS * DIM
    assert rows["lm_head", "weight"]["elements"] == HIDDEN * VOCABULARY
    assert rows["embedding", "rows"]["elements"] == 3 * HIDDEN  # gathered: not the table


@pytest.mark.parametrize(("weights", "each"), [("bf16", 2), ("fp8", 1), ("int4", 0.5), ("nvfp4", 0.5625)])
def test_the_width_is_the_format_s_with_its_scales(weights: str, each: float) -> None:
    setting = Setting(Precision.of(weights, "bf16", "fp8"))
    rows = {(row["operator"], row["tensor"]): row for row in ledger(predicted(setting=setting))}
    assert rows["layers.attention.q_proj", "weight"]["bytes_per_element"] == each
    assert rows["layers.attention.q_proj", "input"]["bytes_per_element"] == 2
    assert rows["layers.attention.core", "key"]["bytes_per_element"] == 1
    assert rows["sampling", "tokens"]["bytes_per_element"] is None  # indices, not numbers of a format


def test_fused_activations_are_not_in_the_ledger() -> None:
    fused, eager = (
        {(row["operator"], row["tensor"]) for row in ledger(predicted(setting=Setting(convention=c)))}
        for c in (CONVENTIONS["fused"], CONVENTIONS["eager"])
    )
    assert fused < eager
    assert ("layers.mlp_residual", "input") in eager - fused
