"""Experts on GPUs, or in sizes, that no fitted table has: what others published of vLLM's Triton kernel.

Its default tiles, before a tuned file was added. Left out are rows that the host's launches take longer than
(H200 below 16 tokens, A100 SXM at one token: the same time for any number of tokens) and those whose weights
an L40S keeps in its L2 (below 8 tokens).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from roofline.physics.kernels import Kernels

TABLE = pd.read_csv(Path(__file__).with_name("published_experts.csv"), keep_default_na=False)
LAYER = ["device", "dtype", "source"]
SIZES = ["num_experts", "inter", "hidden", "topk", "num_tokens"]
MOST = 0.2  # mean error


@pytest.mark.parametrize(
    ("named", "rows"), [pytest.param(key, rows, id=" ".join(key)) for key, rows in TABLE.groupby(LAYER)]
)
def test_published_times_are_met(named: tuple[str, ...], rows: pd.DataFrame) -> None:
    device, dtype, _ = named
    asked: dict[str, Any] = {name: rows[name].to_numpy(dtype=float) for name in SIZES}
    asked |= {name: rows[name].to_numpy(dtype=object) for name in ("backend", "kernel", "version")}
    asked["distribution"] = np.full(len(rows), "independent", object)
    found = Kernels(load_device(device)).table("moe", dtype, "", asked)
    assert found is not None
    error = np.abs(found.time_s * 1e6 / rows["latency_us"].to_numpy() - 1)
    assert error.mean() < MOST
