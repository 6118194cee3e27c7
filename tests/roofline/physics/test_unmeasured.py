"""Constants on GPUs that nobody measured: limits known on paper, and sane times on every device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.physics.base import Constant, Gpu
from roofline.physics.transfer import MOST_SHARE, carried

PADDED = "64 rows of a warp group are counted for one row, which few and slow tensor cores feel"
SHARE = Constant("share", "", 0.3, 1.1, 0.8, "share of a peak", "power")
UNITS = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "fp8_block": "fp8"}  # that a format runs on
ASKED = ("h200_sxm", "h20", "h800", "b300_sxm", "gb200", "l40s", "a40", "rtx_a6000", "rtx4090")
ASKED += ("rtx_pro_6000_server", "l4", "t4", "v100_pcie", "mi210", "mi300x")
GPUS = {name: Gpu.of(load_device(name)) for name in ASKED}


def products() -> Iterator[Any]:
    for name, gpu in GPUS.items():
        for dtype, unit in UNITS.items():
            if unit in gpu.tensor_flop_per_s:
                padded = name == "h20" and dtype.startswith("fp8")
                marks = [pytest.mark.xfail(reason=PADDED, strict=True)] if padded else []
                yield pytest.param(name, dtype, id=f"{name}-{dtype}", marks=marks)


def predicted(name: str, dtype: str, fidelity: str, sizes: list[tuple[int, int, int]]) -> pd.DataFrame:
    table = pd.DataFrame(sizes, columns=["m", "n", "k"]).assign(op="gemm", dtype=dtype)
    return predict_table(table, ceilings(load_device(name), fidelity))


@pytest.mark.parametrize(("name", "dtype"), list(products()))
def test_large_products_and_streams_reach_a_sane_share_of_their_roofs(name: str, dtype: str) -> None:
    sizes = [(8192, 8192, 8192), (1, 16384, 16384), (64, 16384, 16384)]
    floor, found = (predicted(name, dtype, f, sizes) for f in ("datasheet", "calibrated"))
    share = (floor["predicted_us"] / found["predicted_us"]).to_numpy()
    assert (share <= 1).all()
    assert (share >= [0.35, 0.45, 0.5]).all()
    assert found["provenance"].str.startswith("transferred").all()


def test_a_share_that_power_limits_follows_the_cube_root_of_power() -> None:
    h100 = Gpu.of(load_device("h100_sxm"))
    assert h100.tdp_w is not None
    eighth = replace(h100, tdp_w=h100.tdp_w / 8)
    assert carried({"share": 0.8}, [SHARE], h100, eighth)["share"] == pytest.approx(0.4)
    plenty = replace(h100, tdp_w=h100.tdp_w * 8)
    assert carried({"share": 0.8}, [SHARE], h100, plenty)["share"] == MOST_SHARE
    unknown = replace(h100, tdp_w=None)
    assert carried({"share": 0.8}, [SHARE], h100, unknown)["share"] == 0.8
    assert carried({"share": 0.97}, [SHARE], h100, h100)["share"] == pytest.approx(0.97)
