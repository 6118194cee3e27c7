"""Gains of techniques in a run written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs import Device, load_device
from reports.gains import as_text, records
from roofline.gains import gains
from roofline.predict import predict
from roofline.run import Run
from roofline.run_tables import TABLES
from roofline.scenario import Scenario
from roofline.validate import scenario_of
from tests.roofline.test_validate import device, write
from workloads.convention import convention
from workloads.techniques.counted import lacking
from workloads.techniques.registry import parse

__all__ = ["device"]  # a fixture
STEPS = {"prefill": (64, 64), "decode": (1, 65)}


def asked(run: Run, phase: str, counted: str = "eager") -> Scenario:
    q_len, kv_len = STEPS[phase]
    scenario = replace(scenario_of(run), batch=2, prompt=q_len, context=kv_len, output=1)
    return replace(scenario, phase=phase, setting=replace(scenario.setting, convention=convention(counted)))


def row(
    phase: str, technique: str, base_s: float, treated_s: float, counted: str = "eager"
) -> dict[str, Any]:
    q_len, kv_len = STEPS[phase]
    where = {"phase": phase, "batch": 2, "q_len": q_len, "kv_len": kv_len}
    gain = dict.fromkeys(("gain", "gain_q25", "gain_q75"), base_s / treated_s)
    known = {"gain_low": 0.9 * gain["gain"], "gain_high": 1.2 * gain["gain"]}
    repeated = {"repeats": 7, "outliers": 0, "warm_ups": 4, "ended": "narrow interval"}
    times = {"base_s": base_s, "treated_s": treated_s, **gain, **known, **repeated}
    told = {
        "technique": technique,
        "convention": counted,
        "deviation": 0.0,
        "remark": f"of {technique}",
        "ran": "",
    }
    return {**where, **told, **times}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write(tmp_path / "run", [])


def with_table(run: Run, *rows: dict[str, Any]) -> Run:
    run.write_table("techniques", pd.DataFrame(rows, columns=list(TABLES["techniques"])))
    return run


@pytest.mark.parametrize(
    ("phase", "words", "counted"),
    [
        ("decode", "layer-pruning:ratio=0.5", "eager"),
        ("prefill", "flash-attention", "llm-viewer"),
        ("prefill", "prefix-caching:hit=0.5", "eager"),
    ],
)
def test_a_run_as_fast_as_predicted_has_no_error(
    run: Run, device: Device, phase: str, words: str, counted: str
) -> None:
    plain = asked(run, phase, counted)
    base = predict(plain, device, "measured").time_s()
    treated = predict(replace(plain, techniques=(parse(words),)), device, "measured").time_s()
    assert base > treated
    table = with_table(run, row(phase, words, 3 * base, 3 * treated, counted))
    found = gains(table, device, "measured").iloc[0]
    assert found["predicted_base_s"] == pytest.approx(base, abs=0)
    assert found["predicted_gain"] == pytest.approx(base / treated)
    assert found["error"] == pytest.approx(0, abs=1e-9)


def test_a_draft_model_is_the_one_that_the_run_keeps(run: Run, device: Device, tmp_path: Path) -> None:
    """A config of the same name elsewhere, or outside the run, is not looked at."""
    config = run.head.model_config_fields
    small = {**config, "num_hidden_layers": 1}
    (run.path / "draft-small.json").write_text(json.dumps(small))
    words = "speculative-decoding:k=3,accept=0.5,draft=draft-small.json"
    found = gains(with_table(run, row("decode", words, 2.0, 1.0)), device, "measured").iloc[0]
    plain = asked(run, "decode")
    named = parse(words.replace("draft-small.json", str(run.path / "draft-small.json")))
    assert found["predicted_s"] == predict(replace(plain, techniques=(named,)), device, "measured").time_s()
    (run.path / "draft-small.json").unlink()
    missing = gains(run, device, "measured")
    assert missing["predicted_gain"].isna().all()
    assert "draft-small.json" in missing["note"].iloc[0]


def test_how_well_a_gain_is_known_stands_beside_it(run: Run, device: Device) -> None:
    table = gains(with_table(run, row("decode", "layer-pruning", 3.0, 1.0)), device, "measured")
    assert "2.70 to 3.60" in as_text(table)
    assert "7, narrow interval" in as_text(table)
    (shown,) = records(table)
    assert (shown["gain_low"], shown["gain_high"]) == pytest.approx((2.7, 3.6))
    assert shown["repeats"] == "7, narrow interval"


def test_an_older_run_says_how_many_repeats_and_no_more(run: Run, device: Device) -> None:
    later = ("gain_low", "gain_high", "outliers", "warm_ups", "ended")
    older = pd.DataFrame([row("decode", "layer-pruning", 3.0, 1.0)]).drop(columns=list(later))
    older.to_parquet(run.path / "techniques.parquet")
    table = gains(run, device, "measured")
    (shown,) = records(table)
    found = [shown[name] for name in ("gain", "gain_low", "gain_high", "repeats")]
    assert found == [3.0, None, None, "7"]
    assert "narrow" not in as_text(table)


def test_what_kernels_make_of_a_technique_is_predicted(run: Run, device: Device) -> None:
    """The row keeps the name that was asked for; a run that says nothing more predicts that one."""
    asked_for, ran = "layer-pruning:ratio=0.25", "layer-pruning:ratio=0.5"
    plain = row("decode", asked_for, 2.0, 1.0)
    other = gains(with_table(run, {**plain, "ran": ran}), device, "measured").iloc[0]
    same = gains(with_table(run, plain), device, "measured").iloc[0]
    assert other["technique"] == same["technique"] == asked_for
    scenario = asked(run, "decode")
    for found, words in ((other, ran), (same, asked_for)):
        expected = predict(replace(scenario, techniques=(parse(words),)), device, "measured").time_s()
        assert found["predicted_s"] == expected
    pd.DataFrame([plain]).drop(columns="ran").to_parquet(run.path / "techniques.parquet")
    assert gains(run, device, "measured").iloc[0]["predicted_s"] == same["predicted_s"]


def test_remarks_stand_below_the_table(run: Run, device: Device) -> None:
    table = gains(with_table(run, row("decode", "layer-pruning:ratio=0.5", 2.0, 1.0)), device, "measured")
    assert "layer-pruning:ratio=0.5: of layer-pruning:ratio=0.5" in as_text(table)
    assert records(table)[0]["remark"] == "of layer-pruning:ratio=0.5"


def test_what_cannot_be_predicted_says_why(run: Run, device: Device) -> None:
    table = gains(with_table(run, row("decode", "expert-pruning", 2.0, 1.0)), device, "datasheet")
    assert table["predicted_gain"].isna().all()
    (shown,) = records(table)
    assert shown["predicted_gain"] is None
    assert "the model has no experts" in shown["note"]
    assert "not predicted: expert-pruning is not applicable" in as_text(table)


def test_what_a_prediction_counts_already_gains_over_the_step_without_it(run: Run) -> None:
    """No launch was measured on the shipped H100: it waits for a host as engines were measured to."""
    h100 = load_device("h100_sxm")
    found = gains(with_table(run, row("decode", "cuda-graphs", 2.0, 1.0)), h100, "datasheet").iloc[0]
    plain = asked(run, "decode")
    without = replace(plain.setting, convention=lacking(plain.setting.convention, ["cuda-graphs"]))
    assert found["predicted_s"] == predict(plain, h100).time_s()
    assert found["predicted_base_s"] == predict(replace(plain, setting=without), h100).time_s()
    assert found["predicted_gain"] > 1
    assert not found["note"]


def test_a_run_without_techniques_has_no_table(run: Run, device: Device) -> None:
    table = gains(run, device, "datasheet")
    assert table.empty
    assert as_text(table) == ""
    assert records(table) == ()
