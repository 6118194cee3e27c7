"""A run written by hand against the prediction; what matches, what does not, and broken run folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs import Device
from profiler.traces.measured import show_measured
from roofline.ceilings import ceilings
from roofline.predict import step_rows
from roofline.run import Run, create_run, open_run, refuse_existing
from roofline.run_head import Head
from roofline.run_tables import TABLES
from roofline.scenario import Scenario
from roofline.validate import ABOVE, scenario_of, validate
from specfiles.errors import InputError
from workloads.config import Config
from workloads.convention import convention
from workloads.dtypes import Precision
from workloads.families import build
from workloads.phases import Setting, Step

close = partial(pytest.approx, rel=1e-9, abs=0)  # times are far below the default absolute tolerance

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
}
QUARTILES = ("median_s", "q25_s", "q75_s")
POINTS = (("prefill", 2, 64, 64), ("decode", 2, 1, 65))
HEAD: dict[str, Any] = {
    "created": "2024-01-01T00:00:00Z",
    "command": "roofline profile small",
    "model": "small",
    "model_config_fields": CONFIG,
    "weights": "random",
    "phase": "generate",
    "dtype": "bf16",
    "convention": "eager",
    "mode": "eager",
    "device": "Paper",
    "environment": {"python": "3"},
    "seed": 0,
}


@pytest.fixture
def device(paper_device: Callable[..., Device]) -> Device:
    reached = {"dram_byte_per_s": {"value": 0.8e12, "source": "sheet"}}
    return paper_device(
        measured={**reached, "tensor_flop_per_s": {"bf16": {"value": 50e12, "source": "sheet"}}}
    )


def floors(device: Device, fidelity: str = "measured") -> list[dict[str, Any]]:
    """Per point and operator, the predicted time as a row of the operators table."""
    setting = Setting(Precision.of("bf16"), convention("eager"))
    scenario = Scenario(build(Config(CONFIG, "c"), "small"), "prefill", prompt=1, setting=setting)
    rows = []
    for phase, batch, q_len, kv_len in POINTS:
        point = {"phase": phase, "batch": batch, "q_len": q_len, "kv_len": kv_len}
        for row in step_rows(scenario, Step(batch, q_len, kv_len), ceilings(device, fidelity), phase):
            time = row.times.time_s
            rows.append({**point, "name": row.name, "kind": row.kind, "count": row.count, "median_s": time})
    return rows


def write(path: Path, rows: list[dict[str, Any]], **head: Any) -> Run:
    """A run folder with these rows in its operators table."""
    run = create_run(path, Head(**{**HEAD, **head}))
    full = [{"where": "model", "repeats": 5, **dict.fromkeys(QUARTILES, r["median_s"]), **r} for r in rows]
    table = pd.DataFrame(full, columns=list(TABLES["operators"]))
    run.write_table("operators", table)
    return run.write_head(status="complete")


def test_what_was_measured_twice_as_slow_attains_half(tmp_path: Path, device: Device) -> None:
    rows = [{**row, "median_s": 2 * row["median_s"]} for row in floors(device)]
    found = validate(open_run(write(tmp_path / "run", rows).path), device, "measured")
    assert len(found.matched) == len(rows)
    assert len(found.unmatched) == 0
    assert found.matched["attained"].tolist() == close([0.5] * len(rows))
    assert found.matched["error"].tolist() == close([-0.5] * len(rows))
    assert not found.matched["above_ceiling"].any()
    times = {(row["phase"], row["name"]): row["median_s"] for row in rows}
    for row in found.matched.to_dict("records"):
        assert row["measured_s"] == times[row["phase"], row["name"]]
        assert row["predicted_s"] == close(times[row["phase"], row["name"]] / 2)
    summary = found.summary().set_index(["phase", "bound"])
    for phase in ("prefill", "decode"):
        scores = summary.loc[(phase, "all")]
        assert scores["operators"] == sum(row["phase"] == phase for row in rows)
        for name in ("median_ape", "mape", "time_weighted_ape", "attained"):
            assert scores[name] == close(0.5)
        assert scores["bias"] == close(-0.5)
        assert scores["above_ceiling"] == 0


def test_the_bias_is_geometric_and_the_weights_are_seconds(tmp_path: Path, device: Device) -> None:
    """Half as slow and twice as slow cancel; the time-weighted error is that of the long operator."""
    rows = [row for row in floors(device) if row["phase"] == "decode"]
    for i, row in enumerate(rows):
        row["median_s"] *= 2 if i % 2 else 0.5
    rows = rows[: len(rows) // 2 * 2]
    summary = validate(write(tmp_path / "run", rows), device, "measured").summary().set_index("bound")
    assert summary.loc["all", "bias"] == pytest.approx(0)
    assert summary.loc["all", "mape"] == close((0.5 + 1.0) / 2)
    weight = [row["median_s"] * row["count"] for row in rows]
    expected = sum(w * (0.5 if i % 2 else 1.0) for i, w in enumerate(weight)) / sum(weight)
    assert summary.loc["all", "time_weighted_ape"] == close(expected)


def test_attained_is_of_the_measured_ceiling_at_every_fidelity(tmp_path: Path, device: Device) -> None:
    run = write(tmp_path / "run", floors(device))
    for fidelity in ("datasheet", "measured"):
        found = validate(run, device, fidelity)
        assert found.matched["attained"].tolist() == close([1.0] * len(found.matched))
    sheet = validate(run, device, "datasheet").matched
    memory = sheet[sheet["bound"] == "memory"]
    assert memory["error"].tolist() == close([0.8 - 1] * len(memory))  # 0.8 of 1 TB/s reached


def test_faster_than_the_roof_is_flagged(tmp_path: Path, device: Device) -> None:
    """A measurement above the roof is a bug report: here one operator just beyond the tolerance."""
    rows = floors(device)
    beyond, within = rows[3], rows[5]
    beyond["median_s"] /= ABOVE * 1.001
    within["median_s"] /= ABOVE * 0.999
    found = validate(write(tmp_path / "run", rows), device, "measured")
    flagged = found.matched[found.matched["above_ceiling"]]
    assert flagged["name"].tolist() == [beyond["name"]]
    summary = found.summary().set_index(["phase", "bound"])
    assert summary.loc[(beyond["phase"], "all"), "above_ceiling"] == 1


def test_what_matches_neither_way_is_listed(tmp_path: Path, device: Device) -> None:
    rows = floors(device)
    gone, renamed = rows.pop(0), rows[0]
    expected, renamed["name"] = renamed["name"], "layers.mystery"
    found = validate(write(tmp_path / "run", rows), device, "measured")
    listed = {(r["phase"], r["name"]): r for r in found.unmatched.to_dict("records")}
    assert {key: row["side"] for key, row in listed.items()} == {
        (gone["phase"], gone["name"]): "predicted, not measured",
        (gone["phase"], expected): "predicted, not measured",
        (gone["phase"], "layers.mystery"): "measured, not predicted",
    }
    assert listed[gone["phase"], gone["name"]]["seconds"] == close(gone["median_s"])
    assert listed[gone["phase"], "layers.mystery"]["seconds"] == close(renamed["median_s"])
    assert len(found.matched) == len(rows) - 1


def test_what_operators_share_is_the_sum_of_their_predictions(tmp_path: Path, device: Device) -> None:
    """One kernel for two operators of a layer, and one for operators that run once and in every layer."""
    rows = [{**row, "kind": None} for row in floors(device) if row["phase"] == "decode"]
    per = {row["name"]: row for row in rows}
    alike, unlike = ["layers.mlp.gate_proj", "layers.mlp.up_proj"], ["layers.mlp_norm", "final_norm"]
    joined = ["layers.mlp.gate_proj + up_proj", "layers.mlp_norm + final_norm"]
    layer = {**rows[0], "name": joined[0], "count": 3, "median_s": 1e-3}
    step = {**rows[0], "name": joined[1], "count": 1, "median_s": 1e-3}
    rest = [row for row in rows if row["name"] not in (*alike, *unlike)]
    run = write(tmp_path / "run", [*rest, layer, step])
    found = validate(run, device, "measured")
    assert found.unmatched.empty
    times = found.matched.set_index("name")["predicted_s"]
    assert times[joined[0]] == close(sum(per[name]["median_s"] for name in alike))
    assert times[joined[1]] == close(sum(per[name]["median_s"] * per[name]["count"] for name in unlike))
    limits = ceilings(device, "measured")
    parts, whole = (
        show_measured(one, "phase", limits)["rows"][0] for one in (write(tmp_path / "parts", rows), run)
    )
    assert whole["flops"] == close(parts["flops"])
    assert whole["bytes"] == close(parts["bytes"])
    shown = {row["name"]: row for row in show_measured(run, "operator", limits)["rows"]}
    assert all(shown[name]["modelled_share"] == 1 for name in joined)


def test_layers_are_sums_of_their_operators(tmp_path: Path, device: Device) -> None:
    rows = [{**row, "median_s": 4 * row["median_s"]} for row in floors(device)]
    layers = validate(write(tmp_path / "run", rows), device, "measured").layers
    assert set(layers["phase"]) == {"prefill", "decode"}
    for layer in layers.to_dict("records"):
        inside = [r for r in rows if r["phase"] == layer["phase"] and r["name"].startswith("layers.")]
        assert layer["measured_s"] == close(sum(r["median_s"] * r["count"] for r in inside))
        assert layer["error"] == close(1 / 4 - 1)


def test_inside_the_model_and_alone_stand_side_by_side(tmp_path: Path, device: Device) -> None:
    """Only the time inside the model is judged; what an operator takes alone is a column beside it."""
    rows = [{**row, "where": "model", "median_s": 2 * row["median_s"]} for row in floors(device)]
    alone = [{**row, "where": "alone", "median_s": row["median_s"] / 2} for row in rows[1:]]
    matched = validate(write(tmp_path / "run", rows + alone), device, "measured").matched
    assert len(matched) == len(rows)
    first = (matched["phase"] == rows[0]["phase"]) & (matched["name"] == rows[0]["name"])
    assert matched.loc[first, "alone_s"].isna().all()
    rest = matched[~first]
    assert rest["alone_s"].tolist() == close((rest["measured_s"] / 2).tolist())
    assert matched["attained"].tolist() == close([0.5] * len(rows))


def test_a_whole_step_holds_more_than_its_operators(tmp_path: Path, device: Device) -> None:
    rows = floors(device)
    run = write(tmp_path / "run", rows)
    steps = []
    for phase, batch, q_len, kv_len in POINTS:
        inside = sum(r["median_s"] * r["count"] for r in rows if r["phase"] == phase)
        point = {"phase": phase, "batch": batch, "q_len": q_len, "kv_len": kv_len, "repeats": 5}
        for instrumented, factor in ((False, 1.25), (True, 9.0)):  # ranges slow a step: it does not count
            time = inside * factor
            steps.append({**point, "instrumented": instrumented} | dict.fromkeys(QUARTILES, time))
    run.write_table("steps", pd.DataFrame(steps))
    found = validate(run, device, "measured").steps
    assert len(found) == len(POINTS)
    for step in found.to_dict("records"):
        inside = sum(r["median_s"] * r["count"] for r in rows if r["phase"] == step["phase"])
        assert step["predicted_s"] == close(inside)
        assert step["measured_s"] == close(1.25 * inside)
        assert step["unattributed_s"] == close(0.25 * inside)
        assert step["error"] == close(1 / 1.25 - 1)


def test_nothing_measured_compares_with_nothing(tmp_path: Path, device: Device) -> None:
    found = validate(write(tmp_path / "run", []), device, "measured")
    assert [len(t) for t in (found.matched, found.unmatched, found.layers, found.steps)] == [0, 0, 0, 0]
    assert {"phase", "bound", "operators", "median_ape", "attained"} <= set(found.summary().columns)


def test_the_scenario_is_the_one_that_was_recorded(tmp_path: Path, device: Device) -> None:
    scenario = scenario_of(write(tmp_path / "run", [], dtype="fp16", convention="fused"))
    assert scenario.setting.precision == Precision.of("fp16")
    assert scenario.setting.convention.name == "fused"
    assert (scenario.model.hidden, len(scenario.model.layers)) == (256, 3)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path, device: Device) -> None:
    rows = floors(device)
    written = write(tmp_path / "run", rows, notes=["a note"])
    read = open_run(tmp_path / "run")
    assert read.head == written.head
    assert read.head.status == "complete"
    pd.testing.assert_frame_equal(read.table("operators"), written.table("operators"))
    assert list(read.table("operators").columns) == list(TABLES["operators"])
    assert read.table("operators")["median_s"].tolist() == [row["median_s"] for row in rows]


def test_a_run_that_was_cut_short_opens_with_what_it_has(tmp_path: Path) -> None:
    create_run(tmp_path / "run", Head(**HEAD))
    run = open_run(tmp_path / "run")
    assert run.head.status == "running"
    for name, columns in TABLES.items():
        assert list(run.table(name).columns) == list(columns)
        assert len(run.table(name)) == 0


def test_a_run_never_mixes_with_another(tmp_path: Path) -> None:
    create_run(tmp_path / "run", Head(**HEAD))
    with pytest.raises(InputError, match="run: a run is already there; name another folder"):
        create_run(tmp_path / "run", Head(**HEAD))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: is a file; name a folder"):
        create_run(tmp_path / "file", Head(**HEAD))


def test_a_run_takes_no_folder_of_something_else(tmp_path: Path) -> None:
    """A campaign's operators.parquet would be replaced by the run's."""
    (tmp_path / "operators.parquet").write_text("precious")
    with pytest.raises(InputError, match="holds files of something else; name another folder"):
        refuse_existing(tmp_path)
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")


def test_a_run_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path} is not writable"):
        refuse_existing(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such run folder; `roofline profile MODEL -o"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a run, it has no run\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema 2 is not known; expected 1"),
        ({"seed": "zero"}, "seed: "),
        ({"comand": "x"}, "unknown key 'comand'; did you mean 'command'?"),
    ],
)
def test_a_wrong_run_json_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    create_run(tmp_path / "run", Head(**HEAD))
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError) as error:
        open_run(tmp_path / "run")
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_table_is_named(tmp_path: Path, device: Device, kept: float) -> None:
    run = write(tmp_path / "run", floors(device))
    file = run.path / "operators.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(InputError) as error:
        validate(run, device, "measured")
    assert str(error.value).startswith(f"{file}: cannot be read")
    assert "\n" not in str(error.value)


def test_a_table_without_a_column_is_named(tmp_path: Path, device: Device) -> None:
    run = write(tmp_path / "run", floors(device))
    file = run.path / "operators.parquet"
    pd.read_parquet(file).drop(columns="median_s").to_parquet(file)
    with pytest.raises(InputError, match=r"operators\.parquet: has no column 'median_s'; expected phase, "):
        validate(run, device, "measured")


def test_a_recorded_config_that_is_no_model_is_named(tmp_path: Path, device: Device) -> None:
    run = write(tmp_path / "run", floors(device), model_config_fields={**CONFIG, "hidden_size": -1})
    with pytest.raises(InputError, match=r"run\.json: field 'hidden_size' is -1"):
        validate(run, device, "measured")


def test_a_recorded_format_that_does_not_exist_is_named(tmp_path: Path, device: Device) -> None:
    run = write(tmp_path / "run", floors(device), dtype="bf17")
    with pytest.raises(InputError, match="no dtype named 'bf17'; did you mean bf16"):
        validate(run, device, "measured")
