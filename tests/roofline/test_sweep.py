"""Sweeps: every point once, equal to its own prediction, resumed after any interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from hwspecs import load_device
from reports.sweep import as_json, as_text, best_points, counts
from roofline.api import predict as predicted
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.sweep.choose import COST, priced, within
from roofline.sweep.run import in_processes, load_spec, on_dask, one_by_one, run_sweep
from roofline.sweep.spec import Spec, Task
from roofline.target import Goal
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.step import Setting
from workloads.techniques.registry import parse

TEXT = """
schema: 1
name: small
models: [SmolLM2-135M, Mamba-2.8B]
hardware: [h100, l4]
batch: [1, 16]
prompt: [128, 999]
output: 32
dtypes: [{weights: bf16}, {weights: fp8}]
techniques: [[], [awq]]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    path = tmp_path / "spec.yaml"
    path.write_text(TEXT)
    return load_spec(path)


def quiet(line: str) -> None:
    assert line


def test_every_combination_is_a_row_and_equals_its_own_prediction(spec: Spec, tmp_path: Path) -> None:
    table = run_sweep(spec, tmp_path / "out", one_by_one, quiet)
    assert len(table) == spec.points() == 64
    keys = ["model", "hardware", "batch", "prompt", "weights", "techniques"]
    assert not table.duplicated(keys).any()
    for row in table.sample(12, random_state=0).to_dict("records"):
        scenario = Scenario(
            load_model(row["model"]).model,
            "generate",
            row["batch"],
            row["prompt"],
            output=32,
            setting=Setting(Precision.of(row["weights"])),
            techniques=tuple(map(parse, row["techniques"].split())),
        )
        totals = predict(scenario, load_device(row["hardware"])).totals()
        for name in ("time_s", "ttft_s", "tpot_s", "tokens_per_s", "memory_bytes", "energy_j"):
            assert row[name] == pytest.approx(totals[name], rel=1e-9), (name, row)


def test_an_interrupted_sweep_goes_on_where_it_was(spec: Spec, tmp_path: Path) -> None:
    def until_the_third(tasks: list[tuple[Task, str]]) -> Iterator[int]:
        for number, rows in enumerate(one_by_one(tasks)):
            yield rows
            if number == 2:
                raise KeyboardInterrupt

    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(spec, folder, until_the_third, quiet)
    assert not (folder / "points.parquet").exists()
    computed: list[Task] = []

    def noting(tasks: list[tuple[Task, str]]) -> Iterable[int]:
        computed.extend(task for task, _ in tasks)
        return one_by_one(tasks)

    table = run_sweep(spec, folder, noting, quiet)
    assert len(computed) == 8 - 3
    pd.testing.assert_frame_equal(table, run_sweep(spec, tmp_path / "whole", one_by_one, quiet))


def test_processes_and_dask_compute_the_same(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run_sweep(spec, tmp_path / "here", one_by_one, quiet)
    pd.testing.assert_frame_equal(here, run_sweep(spec, tmp_path / "two", in_processes(2), quiet))
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    patient = partial(distributed.Client, timeout=600)  # however busy this machine is
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: patient(address))
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        on_dask(cluster.scheduler_address) as mapper,
    ):
        pd.testing.assert_frame_equal(here, run_sweep(spec, tmp_path / "dask", mapper, quiet))


def test_a_point_without_a_prediction_is_told_and_loses_no_other(spec: Spec, tmp_path: Path) -> None:
    """L4 has no fp4, Mamba no speculative cache to quantise, and 9000 tokens are beyond both models."""
    wide = spec.replace(prompt=[128, 9000], techniques=[[]], models=["SmolLM2-135M"])
    table = run_sweep(wide, tmp_path / "out", one_by_one, quiet)
    told = table[table["error"].notna()]
    assert set(told["prompt"]) == {9000}
    assert told["error"].str.contains("positions").all()
    assert counts(table) == {"points": 16, "fit": 8, "without_prediction": 8}


def test_a_device_without_measured_ceilings_costs_its_own_points(spec: Spec, tmp_path: Path) -> None:
    asked = spec.replace(
        models=["SmolLM2-135M"], techniques=[[]], hardware=["l4", "h100"], fidelity="measured"
    )
    table = run_sweep(asked, tmp_path / "out", one_by_one, quiet)
    told = table["hardware"] == "l4"
    assert told.sum() == len(table) / 2
    assert table.loc[told, "error"].notna().all()
    assert table.loc[~told, "error"].isna().all()


def test_the_best_points_fit_and_are_ranked(spec: Spec, tmp_path: Path) -> None:
    table = run_sweep(spec, tmp_path / "out", one_by_one, quiet)
    fastest = best_points(table, 5, "tpot_s")
    assert [row["tpot_s"] for row in fastest] == sorted(table["tpot_s"])[:5]
    most = best_points(table, 1, "tokens_per_s")[0]
    assert most["tokens_per_s"] == table["tokens_per_s"].max()


def test_steps_of_decode_are_told_by_what_they_see(spec: Spec, tmp_path: Path) -> None:
    decode = run_sweep(spec.replace(phase="decode", context=4321), tmp_path / "one", one_by_one, quiet)
    whole = run_sweep(spec, tmp_path / "two", one_by_one, quiet)
    told = [as_text(table, table, 5, "tpot_s") for table in (decode, whole)]
    assert "4321" in told[0]
    assert ["prompt" in text for text in told] == [False, True]
    assert ["context" in text for text in told] == [True, False]


def test_errors_are_text_even_where_there_is_none(spec: Spec, tmp_path: Path) -> None:
    run_sweep(spec, tmp_path / "out", one_by_one, quiet)
    table = pd.read_parquet(tmp_path / "out" / "points.parquet")
    assert table["error"].isna().all()
    assert not pd.api.types.is_numeric_dtype(table["error"])


def test_devices_are_paid_whether_layers_experts_or_stages_share_them(spec: Spec, tmp_path: Path) -> None:
    split = {"tensor_parallel": [1, 2], "pipeline_parallel": [1, 2]}
    table = priced(
        run_sweep(spec.replace(**split), tmp_path / "out", one_by_one, quiet),
        spec.hardware,
        {"H100-SXM5-80GB": 1.0},
    )
    known = table[table[COST].notna()]
    devices = known["tensor_parallel"] * known["pipeline_parallel"]
    assert set(devices) == {1, 2, 4}
    assert (known[COST] * known["tokens_per_s"] * 3600 / 1e6).to_list() == pytest.approx(devices.to_list())
    assert [
        " PP " in as_text(part, part, 3, COST) for part in (table, table[table["pipeline_parallel"] == 1])
    ] == [True, False]


def test_the_cheapest_point_within_limits_is_found(spec: Spec, tmp_path: Path) -> None:
    """A token costs the hour's price over the tokens of an hour, on all devices that share the model."""
    table = run_sweep(spec.replace(tensor_parallel=[1, 3]), tmp_path / "out", one_by_one, quiet)
    goal = Goal.parse("tpot=1ms,throughput=2000")
    met = within(priced(table, spec.hardware, {"H100-SXM5-80GB": 3.6}), goal)
    assert 0 < len(met) < len(table)
    assert (met["tpot_s"].max() <= 1e-3) & (met["tokens_per_s"].min() >= 2000)
    assert len(met) == ((table["tpot_s"] <= 1e-3) & (table["tokens_per_s"] >= 2000)).sum()
    best, *others = best_points(met, 100, COST)
    assert {best["hardware"], *(row["hardware"] for row in others)} == {"H100-SXM5-80GB"}  # L4: nobody said
    assert {row["tensor_parallel"] for row in others} >= {1, 3}
    for row in (best, *others):
        an_hour = row["tokens_per_s"] * 3600
        assert row[COST] == pytest.approx(3.6 * row["tensor_parallel"] / an_hour * 1e6)
        assert row[COST] >= best[COST]
    assert "USD per million tokens" in as_text(table, met, 3, COST)
    assert json.loads(as_json(table, met, 3, COST))["best"][0][COST] == best[COST]


def test_a_folder_holds_one_sweep(spec: Spec, tmp_path: Path) -> None:
    run_sweep(spec, tmp_path / "out", one_by_one, quiet)
    with pytest.raises(InputError, match="holds another sweep"):
        run_sweep(spec.replace(batch=3), tmp_path / "out", one_by_one, quiet)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("models: []", "models"),
        ("hardware: h100", "hardware"),
        ("batch: [0]", "batch"),
        ("speed: 3", "speed"),
        ("devices: [h100]", "did you mean .engines.. .known keys: .*hardware"),
        ("prompt: [" + ", ".join(["7"] * 1001) + "]", "prompt"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "spec.yaml"
    kept = [old for old in TEXT.splitlines() if old.split(":")[0] != line.split(":", maxsplit=1)[0]]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(InputError, match=words):
        load_spec(path)


def test_names_are_checked_before_anything_is_written(spec: Spec, tmp_path: Path) -> None:
    for wrong in (spec.replace(models=["Lama"]), spec.replace(techniques=[["awk"]])):
        with pytest.raises(InputError):
            run_sweep(wrong, tmp_path / "out", one_by_one, quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("phase", "models"),
    [("prefill", "SmolLM2-135M"), ("decode", "gpt-oss-20b"), ("generate", "SmolLM2-135M")],
)
def test_points_with_an_engine_are_its_predictions(phase: str, models: str, tmp_path: Path) -> None:
    """In a grid or, with techniques, alone; short prompts, where launches are felt, and long ones."""
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"{{schema: 1, name: engines, models: [{models}], hardware: [h100], phase: {phase}, "
        f"batch: [1, 64], prompt: [16, 2000], output: 33, techniques: [[], [awq]], "
        f"engines: [none, vllm, eager], fidelity: calibrated}}"
    )
    table = run_sweep(load_spec(path), tmp_path / "out", one_by_one, quiet)
    assert table["error"].isna().any()
    assert set(table["engine"]) == {"none", "vllm", "eager"}
    for row in table[table["error"].isna()].to_dict("records"):
        asked = {"phase": phase, "techniques": row["techniques"].split()}
        asked |= {name: int(row[name]) for name in ("batch", "prompt", "output") if pd.notna(row[name])}
        own = predicted(row["model"], "h100", "calibrated", engine=row["engine"], **asked)
        for name in ("time_s", "ttft_s", "tpot_s", "tokens_per_s", "memory_bytes", "energy_j"):
            wanted = own.totals()[name]
            found = row[name] if pd.notna(row[name]) else None
            assert found == (None if wanted is None else pytest.approx(wanted, rel=1e-5)), (name, row)
