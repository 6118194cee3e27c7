"""What techniques leave in memory: weights are owned once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwspecs import load_device
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from workloads.catalogue import load_model
from workloads.phases import owners
from workloads.techniques.registry import parse

MODEL = load_model("SmolLM2-135M").model
SCENARIO = Scenario(MODEL, batch=2, prompt=256, output=32)
DEVICE = load_device("h100_sxm")


def predicted(*words: str) -> Prediction:
    return predict(replace(SCENARIO, techniques=tuple(map(parse, words))), DEVICE)


@pytest.mark.parametrize("k", [2, 4])
def test_heads_beside_a_shared_layer_have_weights_of_their_own(k: int) -> None:
    """One layer's weights repeated over the depth, and k - 1 heads of one layer each."""
    one_layer = predicted("universal-transformer").totals()["weights_bytes"]
    inside = [row for row in owners(MODEL) if row.name.startswith("layers.")]
    layer = sum(row.parameters() for row in inside) / len(MODEL.layers)
    with_heads = predicted("universal-transformer", f"next-k-tokens:k={k}").totals()["weights_bytes"]
    assert with_heads - one_layer == (k - 1) * layer * 2  # bf16
