"""An explanation is the whole time, and nothing but the time."""

from __future__ import annotations

import pandas as pd
import pytest

from hwspecs import load_device
from reports import waterfall
from roofline.ceilings import ceilings
from roofline.explain import explained, explained_rows
from roofline.optable import predict_table
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


ROWS = pd.DataFrame(
    [
        {"op": "gemm", "dtype": "bf16", "m": 17, "n": 4096, "k": 14336},
        {"op": "attention_prefill", "q_len": 777, "batch": 2, "kv_len": 999},
        {"op": "attention_encoder", "q_len": 200, "batch": 2, "kv_len": 200},
        {"op": "attention_decode", "batch": 33, "kv_len": 5000, "window": 4096},
        {"op": "mla_prefill", "batch": 1, "q_len": 512, "kv_len": 512, "n_heads": 128},
        {"op": "mla_decode", "batch": 8, "kv_len": 512, "n_heads": 128},
        {"op": "moe", "num_tokens": 64, "hidden": 4096, "inter": 1024, "topk": 2, "num_experts": 8},
        {"op": "allreduce", "bytes": 1e6, "n_gpus": 4},
        {"op": "rmsnorm", "num_tokens": 64, "hidden": 4096},
        {"op": "sampling", "num_tokens": 64, "n": 32_000},
    ]
)
HEADS = {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128}


@pytest.mark.parametrize("fidelity", ["datasheet", "calibrated"])
def test_rows_of_a_table_have_the_terms_of_their_times_and_a_reason_for_each(fidelity: str) -> None:
    table = ROWS.assign(**{name: ROWS.get(name, size) for name, size in HEADS.items()})
    table = table.fillna({"n_heads": 32, "dtype": "bfloat16"})
    limits = ceilings(load_device("h100_sxm"), fidelity)
    found = explained_rows(table, limits)
    assert [one.operator.split()[0] for one in found] == list(table["op"])
    for one, predicted_us in zip(found, predict_table(table, limits)["predicted_us"], strict=True):
        assert one.time_s == pytest.approx(predicted_us * 1e-6, rel=1e-9)
        assert sum(term.seconds for term in one.terms) == pytest.approx(one.time_s, rel=1e-9)
        assert all(term.why for term in one.terms), one
    assert "gemm bf16 m 17 n 4096 k 14336" in waterfall.as_text(found)


def test_an_operator_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(InputError, match="no operator to explain named 'qq_proj'; known: embedding"):
        explained(SCENARIO, load_device("h100_sxm"), "calibrated", "qq_proj")
