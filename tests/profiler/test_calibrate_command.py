"""`roofline calibrate` as a user meets it: what it writes can be predicted with, twice the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from hwspecs.calibrations import read_shipped
from profiler.campaign.folder import CALIBRATION, DEVICE, HEAD, OPERATORS, Head
from profiler.campaign.shapes import Limits, rows
from profiler.device_file import as_yaml
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.tablefiles import read_table
from specfiles.strict import plain_data

Roofline = Callable[..., Any]


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    """Times of an imaginary kernel: a launch of 9 us, then 60 % of an H100's bandwidth or peak."""
    rng = np.random.default_rng(5)
    sizes = dict(zip("mnk", 2 ** rng.integers(5, 13, (3, 120)), strict=True))
    table = pd.DataFrame({"op": "gemm", "dtype": "bfloat16", "backend": "mine", "kernel": "one", **sizes})
    bound = predict_table(table, ceilings(load_device("h100_sxm")))["predicted_us"]
    path = tmp_path / "times.csv"
    table.assign(latency_us=9 + bound / 0.6, gpu="h100_sxm").to_csv(path, index=False)
    return path


def test_a_calibrated_file_predicts_what_it_was_fitted_to(
    roofline: Roofline, measurements: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(measurements)
    for name, gpu in (("mine.yaml", "h100_sxm"), ("again.yaml", "NVIDIA H100 80GB HBM3")):  # as drivers say
        table.assign(gpu=gpu).to_csv(measurements, index=False)
        ended = roofline("calibrate", measurements, "--hw", "h100_sxm", "-o", tmp_path / name)
        assert ended.code == 0, ended.err
    assert (tmp_path / "mine.yaml").read_bytes() == (tmp_path / "again.yaml").read_bytes()
    assert "held-out MAPE" in ended.out
    out = tmp_path / "out.csv"
    ended = roofline(
        "ops", measurements, "--hw", tmp_path / "mine.yaml", "--fidelity", "calibrated", "-o", out
    )
    assert ended.code == 0, ended.err
    found = read_table(out)
    assert (found["provenance"] == "calibrated").all()
    assert (found["predicted_us"] / found["latency_us"] - 1).abs().median() < 0.1


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("latency_us", None, "no column 'latency_us'"),
        ("gpu", "b200_sxm", "too few rows to fit H100-SXM5-80GB on"),
        ("op", "no such op", "too few rows to fit H100-SXM5-80GB on"),
    ],
)
def test_nothing_to_fit_is_said_and_nothing_written(
    roofline: Roofline, measurements: Path, tmp_path: Path, column: str, value: str | None, said: str
) -> None:
    table = pd.read_csv(measurements)
    table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    table.to_csv(measurements, index=False)
    ended = roofline("calibrate", measurements, "--hw", "h100_sxm", "-o", tmp_path / "no.yaml")
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "no.yaml").exists()


def test_an_update_changes_no_other_kind(roofline: Roofline, measurements: Path, tmp_path: Path) -> None:
    """Two kinds in one file; fitting one again leaves the other's line as it was, to the byte."""
    table, out = pd.read_csv(measurements), tmp_path / "both.json"
    norms = table.assign(op="rmsnorm", num_tokens=table["m"], hidden=table["k"], latency_us=9.0)
    pd.concat([table, norms.head(40)]).to_csv(measurements, index=False)
    found = []
    for more in ((), ("--update", "--only", "gemm")):
        ended = roofline("calibrate", measurements, "--hw", "h100_sxm", "-o", out, *more)
        assert ended.code == 0, ended.err
        found.append(out.read_text().splitlines())
        slower = table.assign(latency_us=2 * table["latency_us"])
        pd.concat([slower, norms]).to_csv(measurements, index=False)
    changed = [new for old, new in zip(*found, strict=True) if old != new]
    assert len(changed) == 2  # the kernel, and any backend's
    assert all('"op":"gemm"' in line for line in changed)
    assert any('"op":"rmsnorm"' in line for line in found[1])


@pytest.mark.parametrize(
    ("hw", "more", "said"),
    [
        ("h100_sxm", ("--only", "gem"), "operator kind with a kernel model named 'gem'; did you mean gemm"),
        ("b200_sxm", ("--update",), "holds constants of H100-SXM5-80GB, not of B200"),
    ],
)
def test_a_wrong_update_is_refused(
    roofline: Roofline, measurements: Path, tmp_path: Path, hw: str, more: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "file.json"
    text = '{"schema":1,"device":"H100-SXM5-80GB","calibration":{"source":"mine","kernels":[]}}'
    out.write_text(text)
    ended = roofline("calibrate", measurements, "--hw", hw, "-o", out, *more)
    assert ended.code == 2
    assert said in ended.err
    assert out.read_text() == text


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """The folder of a campaign on an H100 whose operators need twice their floor and a launch."""
    folder = tmp_path / "mine"
    folder.mkdir()
    found = [row for row, _ in zip(rows(("bf16",), Limits(1e13, 8e9)), range(400), strict=False)]
    table = pd.DataFrame(found).assign(backend="torch", kernel="torch", gpu="H100 80GB HBM3")
    floor = predict_table(table, ceilings(load_device("h100_sxm")))["predicted_us"]
    table.assign(latency_us=5 + 2 * floor).to_parquet(folder / OPERATORS)
    head = Head(
        created="2026-01-02T03:04:05+00:00", command="roofline campaign", device="H100 80GB HBM3",
        dtypes=["bf16"], environment={"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11.0", "driver": "580.1"},
    )  # fmt: skip
    (folder / HEAD).write_text(json.dumps(plain_data(head)))
    return folder


def test_a_campaign_calibrates_its_device_by_itself(roofline: Roofline, campaign: Path) -> None:
    """Kinds without a kernel model (copies, sampling) are in its table, too, and are left out."""
    ended = roofline("calibrate", campaign)
    assert ended.code == 0, ended.err
    shipped = read_shipped(campaign / CALIBRATION)
    assert shipped.device == "H100-SXM5-80GB"
    kernels = shipped.calibration.kernels
    assert {"gemm", "attention_decode", "attention_prefill"} <= {kernel.op for kernel in kernels}
    assert {kernel.source for kernel in kernels} == {
        "roofline campaign of 2026-01-02 on H100 80GB HBM3, torch 2.11.0, driver 580.1"
    }
    gemm = next(k for k in kernels if k.op == "gemm" and k.backend == "torch")
    assert gemm.held_out_error is not None
    assert gemm.held_out_error < 0.25


def renamed(campaign: Path, **changes: Any) -> None:
    """The campaign of a device of another name."""
    head = json.loads((campaign / HEAD).read_text())
    (campaign / HEAD).write_text(json.dumps({**head, **changes}))
    table = pd.read_parquet(campaign / OPERATORS)
    table.assign(gpu=changes.get("device", head["device"])).to_parquet(campaign / OPERATORS)


def test_a_gpu_that_nobody_shipped_is_the_one_that_the_campaign_measured(
    roofline: Roofline, campaign: Path
) -> None:
    renamed(campaign, device="H100 of a lab")
    ended = roofline("calibrate", campaign, "--only", "gemm")
    assert (ended.code, "no device named 'H100 of a lab'" in ended.err) == (2, True)
    found = load_device("h100_sxm").replace(name="H100 of a lab", aliases=[])
    (campaign / DEVICE).write_text(as_yaml(found))
    ended = roofline("calibrate", campaign, "--only", "gemm")
    assert ended.code == 0, ended.err
    assert read_shipped(campaign / CALIBRATION).device == "H100 of a lab"


def test_a_processor_has_no_kernel_models_to_fit(roofline: Roofline, campaign: Path) -> None:
    renamed(campaign, device="AMD EPYC", environment={"torch": "2.11.0"})
    ended = roofline("calibrate", campaign)
    assert ended.code == 2
    assert "the campaign of a CPU" in ended.err
    assert "device.yaml has them" in ended.err
    assert not (campaign / CALIBRATION).exists()


def test_a_folder_that_is_no_campaign_is_said(roofline: Roofline, campaign: Path, tmp_path: Path) -> None:
    ended = roofline("calibrate", tmp_path)
    assert (ended.code, "is no campaign, it has no campaign.json" in ended.err) == (2, True)
    ended = roofline("calibrate", tmp_path / "nowhere")
    assert (ended.code, "nowhere: no such file or folder" in ended.err) == (2, True)
    (campaign / OPERATORS).unlink()
    ended = roofline("calibrate", campaign)
    assert (ended.code, "has no operators.parquet" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a table does not say its device: add --hw NAME"),
        (("--hw", "a100"), "does not say its output: add -o"),
    ],
)
def test_a_table_needs_device_and_output(
    words: tuple[str, ...], said: str, roofline: Roofline, measurements: Path
) -> None:
    ended = roofline("calibrate", measurements, *words)
    assert (ended.code, said in ended.err) == (2, True), ended.err
