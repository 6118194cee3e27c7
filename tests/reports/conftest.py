"""Runs and devices built by hand: measurements are predictions times known factors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs import Device
from reports.content import of_run
from reports.records import Content
from roofline.ceilings import ceilings
from roofline.predict import step_rows
from roofline.run import Run, create_run
from roofline.run_head import Head
from roofline.scenario import Scenario
from roofline.validate import scenario_of
from specfiles.strict import validated
from tests.conftest import number
from workloads.catalogue import load_model
from workloads.phases import Step

FACTORS = {"layers.mlp.down_proj": 2.0, "layers.attention.core": 3.0, "sampling": 5.0}  # others: 1.25
STEP_FACTOR = 1.2  # a whole step takes this much longer than its operators
POINTS = (("prefill", 1, 512, 512), ("decode", 1, 1, 513), ("decode", 8, 1, 513))


def device_data(**changes: Any) -> dict[str, Any]:
    """A device file's content: 100 TFLOP/s and 1 TB/s stated, 80 and 0.9 reached."""
    data: dict[str, Any] = {
        "schema": 1,
        "name": "Toy",
        "vendor": "Nobody",
        "kind": "gpu",
        "architecture": "toy",
        "sources": {"sheet": "Toy data sheet, table 1", "fit": "measured on the toy"},
        "datasheet": {
            "tensor_flop_per_s": {"bf16": number(100e12)},
            "vector_flop_per_s": {"fp32": number(10e12)},
            "dram": {"type": "HBM", "capacity_bytes": number(16e9), "byte_per_s": number(1e12)},
            "tdp_w": number(100),
        },
        "measured": {
            "tensor_flop_per_s": {"bf16": {"value": 80e12, "source": "fit"}},
            "dram_byte_per_s": {"value": 0.9e12, "source": "fit"},
        },
    }
    return {**data, **changes}


@pytest.fixture
def make_device() -> Callable[..., Device]:
    def make(**changes: Any) -> Device:
        return validated(Device, device_data(**changes), "toy.yaml")

    return make


@pytest.fixture
def toy_data() -> dict[str, Any]:
    return device_data()


@pytest.fixture
def toy(make_device: Callable[..., Device]) -> Device:
    return make_device()


@pytest.fixture
def make_run(tmp_path: Path, toy: Device) -> Callable[..., Run]:
    def make(
        points: tuple[tuple[str, int, int, int], ...] = POINTS,
        rename: dict[str, str] | None = None,
        **head: Any,
    ) -> Run:
        run = create_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", _head(**head))
        _write_measurements(run, toy, points, rename or {})
        return run

    return make


@pytest.fixture
def content(make_run: Callable[..., Run], toy: Device) -> Content:
    return of_run(make_run(), toy, [toy])


def _head(**changes: Any) -> Head:
    data: dict[str, Any] = {
        "status": "complete",
        "created": "2026-01-02T03:04:05+00:00",
        "command": "roofline profile llama-3.2-1b",
        "model": "llama-3.2-1b",
        "model_config_fields": load_model("llama-3.2-1b").config,
        "weights": "random",
        "phase": "generate",
        "dtype": "bf16",
        "convention": "eager",
        "mode": "eager",
        "device": "Toy",
        "environment": {"torch": "2.9", "gpu": {"driver": "580.1", "clocks": [1, 2]}},
        "seed": 0,
    }
    return Head(**{**data, **changes})


def _write_measurements(
    run: Run, device: Device, points: tuple[tuple[str, int, int, int], ...], rename: dict[str, str]
) -> None:
    scenario = scenario_of(run)
    operators, steps = [], []
    for point in points:
        rows = _measured_rows(scenario, device, point, rename)
        operators += rows
        total = sum(row["count"] * row["median_s"] for row in rows)
        for instrumented, factor in ((False, STEP_FACTOR), (True, 1.5)):
            steps.append({**_point(point), "instrumented": instrumented, **_timing(total * factor)})
    columns = [
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "name",
        "kind",
        "where",
        "count",
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
    ]
    run.write_table("operators", pd.DataFrame(operators, columns=columns))
    run.write_table("steps", pd.DataFrame(steps, columns=[*columns[:4], "instrumented", *columns[8:]]))


def _measured_rows(
    scenario: Scenario, device: Device, point: tuple[str, int, int, int], rename: dict[str, str]
) -> list[dict[str, Any]]:
    phase, batch, q_len, kv_len = point
    predicted = step_rows(scenario, Step(batch, q_len, kv_len), ceilings(device, "measured"), phase)
    return [
        {
            **_point(point),
            "name": rename.get(row.name, row.name),
            "kind": row.kind,
            "where": "model",
            "count": row.count,
            **_timing(float(row.times.time_s) * FACTORS.get(row.name, 1.25)),
        }
        for row in predicted
    ]


def _point(point: tuple[str, int, int, int]) -> dict[str, Any]:
    return dict(zip(("phase", "batch", "q_len", "kv_len"), point, strict=True))


def _timing(seconds: float) -> dict[str, Any]:
    return {"repeats": 20, "median_s": seconds, "q25_s": 0.98 * seconds, "q75_s": 1.02 * seconds}
