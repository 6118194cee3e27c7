"""An explanation is the whole time, and nothing but the time."""

from __future__ import annotations

import pytest

from hwspecs import load_device
from reports import waterfall
from roofline.explain import explained
from roofline.predict import predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.catalogue import load_model

SCENARIO = Scenario(load_model("Llama-3.1-8B").model, "prefill", batch=1, prompt=512)


@pytest.mark.parametrize("device", ["h100_sxm", "h200_sxm"])
@pytest.mark.parametrize("operator", ["layers.mlp.down_proj", "down_proj", "embedding"])
def test_terms_sum_to_the_time(device: str, operator: str) -> None:
    gpu = load_device(device)
    (found,) = explained(SCENARIO, gpu, "calibrated", operator)
    assert sum(term.seconds for term in found.terms) == pytest.approx(found.time_s, rel=1e-9)
    rows = {row.name: row.times.time_s for row in predict(SCENARIO, gpu, "calibrated").rows}
    assert found.time_s == pytest.approx(rows[found.operator])
    assert found.provenance in ("calibrated", "ceilings") or "transferred" in found.provenance
    assert found.operator in waterfall.as_text([found])


def test_an_operator_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(InputError, match="no operator to explain named 'qq_proj'; known: embedding"):
        explained(SCENARIO, load_device("h100_sxm"), "calibrated", "qq_proj")
