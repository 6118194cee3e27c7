"""A machine changes its speed between its device file and a run: the drift says so, the raw error stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs import Device
from roofline.ceilings import ceilings
from roofline.drift import drifts
from roofline.predict import step_rows
from roofline.run import Run, create_run
from roofline.run_head import Head
from roofline.run_tables import POINT, TABLES
from roofline.scenario import Scenario
from roofline.validate import validate
from tests.roofline.test_validate import CONFIG, HEAD, POINTS
from workloads.config import Config
from workloads.convention import convention
from workloads.dtypes import Precision
from workloads.families import build
from workloads.phases import Setting, Step

close = partial(pytest.approx, rel=1e-9)
SLOWER = {"prefill": 1.25, "decode": 0.5}  # the machine during the run, relative to its file
SLOWER_LAYERS = {"prefill": 1.1, "decode": 0.4}  # the same of operators, without the framework between them
FILED = {"prefill": 0.2, "decode": 0.01}
FILED_LAYERS = {"prefill": 0.19, "decode": 0.006}
WORK = {"model": "yardstick-d", "dtype": "bf16", "flops": 1e9, "bytes": 1e6}


def filed(**changes: Any) -> list[dict[str, Any]]:
    return [
        {
            **{"phase": phase, **WORK, "repeats": 5},
            **{"median_s": s, "q25_s": 0.9 * s, "q75_s": 1.1 * s, "layers_s": FILED_LAYERS[phase]},
            **changes,
        }
        for phase, s in FILED.items()
    ]


@pytest.fixture
def made(paper_device: Callable[..., Device]) -> Callable[..., Device]:
    def make(references: list[dict[str, Any]]) -> Device:
        reached = {"dram_byte_per_s": {"value": 0.8e12, "source": "sheet"}, "references": references}
        return paper_device(
            measured={**reached, "tensor_flop_per_s": {"bf16": {"value": 50e12, "source": "sheet"}}}
        )

    return make


def run_on(path: Path, made_for: Device, references: bool = True, layers: bool = True, **head: Any) -> Run:
    """A run whose operators took their predicted times, times how slow they were; whole steps likewise.

    Without `layers` it is as older ones: nothing is known of the layers of its reference steps.
    """
    setting = Setting(Precision.of("bf16"), convention("eager"))
    scenario = Scenario(build(Config(CONFIG, "c"), "small"), "prefill", prompt=1, setting=setting)
    operators, steps, beside = [], [], []
    for phase, batch, q_len, kv_len in POINTS:
        point = dict(zip(POINT, (phase, batch, q_len, kv_len, 0), strict=True))
        whole = 0.0
        for row in step_rows(scenario, Step(batch, q_len, kv_len), ceilings(made_for, "measured"), phase):
            second = SLOWER_LAYERS[phase] * row.times.time_s
            whole += SLOWER[phase] * row.count * row.times.time_s
            known = {"name": row.name, "kind": row.kind, "count": row.count, "where": "model"}
            operators.append({**point, **known, **spread(second)})
        steps.append({**point, "instrumented": False, **spread(whole), "waited_s": 3 * whole})
        inside_s = SLOWER_LAYERS[phase] * FILED_LAYERS[phase] if layers else float("nan")
        beside.append({**point, **WORK, **spread(SLOWER[phase] * FILED[phase]), "layers_s": inside_s})
    run = create_run(path, Head(**{**HEAD, "device": made_for.name, **head}))
    tables = {"operators": operators, "steps": steps, "references": beside if references else []}
    for name, rows in tables.items():
        run.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))
    return run


def spread(median_s: float) -> dict[str, Any]:
    return {"repeats": 5, "median_s": median_s, "q25_s": 0.8 * median_s, "q75_s": 1.2 * median_s}


def test_the_raw_error_stays_and_without_drift_nothing_is_left(
    tmp_path: Path, made: Callable[..., Device]
) -> None:
    """The prediction is exact for the machine as it was; every error is the drift's."""
    device = made(filed())
    found = validate(run_on(tmp_path / "run", device), device, "measured")
    for table, slower in (
        (found.matched, SLOWER_LAYERS),
        (found.layers, SLOWER_LAYERS),
        (found.steps, SLOWER),
    ):
        assert len(table) >= len(POINTS)
        for row in table.to_dict("records"):
            assert row["drift"] == close(slower[row["phase"]])
            assert row["error"] == close(1 / slower[row["phase"]] - 1)
            assert row["error_after_drift"] == pytest.approx(0, abs=1e-9)
    summary = found.summary().set_index(["phase", "bound"])
    for phase, slower in SLOWER_LAYERS.items():
        assert summary.loc[(phase, "all"), "median_ape"] == close(abs(1 / slower - 1))
        assert summary.loc[(phase, "all"), "after_drift"] == pytest.approx(0, abs=1e-9)
    assert found.drift_unknown == found.layers_drift_unknown == ""


@pytest.mark.parametrize(
    ("references", "beside", "reason"),
    [
        (filed(layers_s=None), True, "the file of Paper has no times within their layers; measure its ceil"),
        (filed(), False, "the run has no times within their layers; profile the model again"),
    ],
    ids=["file", "run"],
)
def test_without_times_of_layers_the_step_s_drift_stands_for_them(
    references: list[dict[str, Any]], beside: bool, reason: str, tmp_path: Path, made: Callable[..., Device]
) -> None:
    from reports.content import of_run
    from reports.html import render
    from reports.validation import as_text

    device = made(references)
    run = run_on(tmp_path / "run", device, layers=beside)
    found = validate(run, device, "measured")
    assert found.layers_drift_unknown.startswith(reason)
    assert found.drift["layers_drift"].isna().all()
    for table in (found.matched, found.layers, found.steps):
        assert table["drift"].tolist() == close([SLOWER[phase] for phase in table["phase"]])
    assert f"framework code included: {found.layers_drift_unknown}." in as_text([found], details=False)
    page = render(of_run(run, device))
    assert f"Layers have the drift of whole steps: {found.layers_drift_unknown}." in page


def test_a_run_of_an_older_version_opens(tmp_path: Path, made: Callable[..., Device]) -> None:
    """Its table of reference steps has no column for their layers."""
    device = made(filed())
    run = run_on(tmp_path / "run", device)
    old = run.table("references").drop(columns="layers_s")
    old.to_parquet(run.path / "references.parquet", index=False)
    found = validate(run, device, "measured")
    assert found.layers_drift_unknown.startswith("the run has no times within their layers")
    assert found.drift["drift"].tolist() == close(list(SLOWER.values()))


def test_the_spread_is_that_of_the_repeats_beside_the_point(
    tmp_path: Path, made: Callable[..., Device]
) -> None:
    device = made(filed())
    drift = drifts(run_on(tmp_path / "run", device), device).table
    assert list(drift["drift_q25"] / drift["drift"]) == close([0.8, 0.8])
    assert list(drift["drift_q75"] / drift["drift"]) == close([1.2, 1.2])


def test_waits_are_no_part_of_a_step(tmp_path: Path, made: Callable[..., Device]) -> None:
    """A process that waited three times as long as it worked was not slower at its work."""
    device = made(filed())
    steps = validate(run_on(tmp_path / "run", device), device, "measured").steps
    assert (steps["waited_s"] / steps["measured_s"]).tolist() == close([3.0, 3.0])
    attributed = 1 - steps["unattributed_s"] / steps["measured_s"]
    assert attributed.tolist() == close([SLOWER_LAYERS[phase] / SLOWER[phase] for phase in steps["phase"]])


@pytest.mark.parametrize(
    ("references", "beside", "head", "reason"),
    [
        (filed(), False, {}, "the run has no reference steps; profile the model again"),
        ([], True, {}, "the file of Paper has no reference steps; measure its ceilings again"),
        (filed(bytes=2e6), True, {}, "are others than the run's"),
        (filed(dtype="fp32"), True, {}, "are others than the run's"),
        (filed(), True, {"device": "another"}, "the run was measured on another, not on Paper"),
    ],
    ids=["run without", "file without", "other work", "other format", "other machine"],
)
def test_where_the_drift_is_not_known_it_says_so(
    references: list[dict[str, Any]],
    beside: bool,
    head: dict[str, Any],
    reason: str,
    tmp_path: Path,
    made: Callable[..., Device],
) -> None:
    from reports.validation import as_text

    device = made(references)
    found = validate(run_on(tmp_path / "run", device, beside, **head), device, "measured")
    assert reason in found.drift_unknown
    assert found.drift.empty
    assert found.layers_drift_unknown == ""  # one reason is enough
    assert found.layers["error_after_drift"].isna().all()
    assert found.layers["error"].notna().all()
    assert f"The machine's drift is not known: {found.drift_unknown}." in as_text([found], details=False)


def test_both_errors_stand_in_the_text(tmp_path: Path, made: Callable[..., Device]) -> None:
    from reports.validation import as_text

    device = made(filed())
    text = as_text([validate(run_on(tmp_path / "run", device), device, "measured")], details=False)
    layers, _, steps = text.partition("all layers together")[2].partition("whole steps")
    for part, error, drift in ((layers, "-9.1 %", "10.0 %"), (steps, "-20.0 %", "25.0 %")):  # 1 / 1.1 - 1
        prefill = next(line for line in part.splitlines() if "prefill" in line)
        assert error in prefill
        assert drift in prefill
        assert " 0.0 %" in prefill
    assert "operators by the drift of the operators in its layers." in text


def test_without_layers_there_is_no_empty_table_of_them(tmp_path: Path, made: Callable[..., Device]) -> None:
    """As of a traced module whose operators lie in none."""
    from reports.validation import as_text

    device = made(filed())
    found = validate(run_on(tmp_path / "run", device), device, "measured")
    text = as_text([replace(found, layers=found.layers[:0])], details=False)
    assert "whole steps" in text
    assert "all layers together" not in text
