"""Held-out error on cells of the shared measurements, thinned so that a test can fit them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from roofline.physics.base import Gpu
from roofline.physics.choice import Chosen
from roofline.physics.columns import dtypes_of, of_table
from roofline.physics.fit import FOLDS, Cell, _cross_fit, mape
from roofline.physics.kernels import Kernels
from roofline.physics.model import KernelModel


@pytest.fixture(autouse=True)
def tables_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests here state what is known from tables: results of campaigns, which come first, are put aside."""
    monkeypatch.setattr("hwspecs.measured.FOLDER", tmp_path / "no campaigns")


def chosen(
    device: str,
    op: str,
    dtype: str = "bfloat16",
    kv_dtype: str = "",
    backend: str = "",
    kernel: str = "",
    *,
    unseen: bool = False,
) -> Chosen:
    """The constants that a device has for rows; `unseen` as if nobody had measured it."""
    found = _kernels(device, unseen).choose(op, dtype, kv_dtype, backend, kernel)
    assert found is not None
    return found


@cache
def _kernels(device: str, unseen: bool) -> Kernels:
    return Kernels(load_device(device), unseen=unseen)


def held_out_s(cell: Cell, folds: int = FOLDS) -> Any:
    """Each row's time by constants that were fitted without its shape family, and begin without a prior."""
    return _cross_fit(cell, cell.families() % folds, lambda _: None).predicted_s(cell)


@pytest.fixture(scope="session")
def held_out_error(shared: Callable[[str], Path]) -> Any:
    """The error of a cell's rows by constants fitted without their shape family."""
    return lambda table, model, rows, **chosen: _error(shared(f"data/{table}.parquet"), model, rows, chosen)


def _error(path: Path, model: KernelModel, rows: int, chosen: dict[str, str]) -> float:
    measured = pd.read_parquet(path)
    for name, value in chosen.items():
        measured = measured[measured[name] == value]
    assert len(measured) > 0, chosen
    measured = measured.iloc[np.unique(np.linspace(0, len(measured) - 1, rows).astype(int))]
    columns = of_table(measured)
    time = measured["latency_us"].to_numpy(dtype=np.float64) * 1e-6
    dtype = dtypes_of(chosen["dtype"])
    cell = Cell(model, Gpu.of(load_device(chosen["gpu"])), dtype, columns, time)
    return mape(held_out_s(cell), time)
