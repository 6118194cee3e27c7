"""Products on GPUs, or of kernels, that no fitted table has: what others published of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from roofline.physics.base import total
from roofline.physics.kernels import Kernels

TABLE = pd.read_csv(Path(__file__).with_name("published_products.csv"), keep_default_na=False)
KERNEL = ["device", "dtype", "backend", "kernel", "weights", "source"]
COPIES = {"in L2": 1.0, "in memory": np.inf}  # of the weights: one that a large L2 keeps, or none
MOST = 0.2  # mean error
ABOVE_ITS_SHEET = {"rtx5090 fp8": 0.35}  # these cards run above the clock of the data sheet, and are faster
HELD_DOWN = {"l4 bfloat16": 0.25, "t4 float16": 0.25, "t4 sq": 0.35}  # by a power limit of 70 W


@pytest.mark.parametrize(
    ("named", "rows"), [pytest.param(key, rows, id=" ".join(key)) for key, rows in TABLE.groupby(KERNEL)]
)
def test_published_times_are_met(named: tuple[str, ...], rows: pd.DataFrame) -> None:
    """Activations are quantised beforehand."""
    device, dtype, backend, kernel, weights, _ = named
    asked: dict[str, Any] = {name: rows[name].to_numpy(dtype=float) for name in "mnk"}
    asked |= {"backend": np.full(len(rows), backend, object), "kernel": np.full(len(rows), kernel, object)}
    asked["copies"] = np.full(len(rows), COPIES[weights])
    found = Kernels(load_device(device)).table("gemm", dtype, "", asked)
    assert found is not None
    alone = total({name: seconds for name, seconds in found.parts.items() if name != "quantise kernel"})
    error = np.abs(alone * 1e6 / rows["latency_us"].to_numpy() - 1)
    assert error.mean() < {**ABOVE_ITS_SHEET, **HELD_DOWN}.get(f"{device} {dtype}", MOST)
