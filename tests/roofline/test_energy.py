"""Energy is a part per second, per byte and per FLOP, and never more than TDP x time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.power import held_out, utilised
from hwspecs import load_device
from hwspecs.serving import Power, power
from roofline.energy import drawn, fit_power
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.tablefiles import read_table
from workloads.catalogue import load_model

SHARE = st.floats(0, 1)


@given(SHARE, SHARE)
def test_no_device_draws_more_than_its_tdp_or_less_than_idle(mbu: float, mfu: float) -> None:
    assert power().idle <= drawn(power(), mbu, mfu) <= 1


@given(SHARE, SHARE, st.floats(0, 0.1))
def test_more_use_draws_more(mbu: float, mfu: float, more: float) -> None:
    assert drawn(power(), mbu + more, mfu) >= drawn(power(), mbu, mfu)
    assert drawn(power(), mbu, mfu + more) >= drawn(power(), mbu, mfu)


def test_a_fit_finds_the_shares_that_made_the_power() -> None:
    truth = Power(idle=0.25, memory=0.6, compute=0.9, source="paper")
    mbu, mfu = np.meshgrid([0.1, 0.4, 0.7], [0.0, 0.2, 0.4])
    found = fit_power(mbu.ravel(), mfu.ravel(), drawn(truth, mbu, mfu).ravel())
    assert found == pytest.approx({"idle": 0.25, "memory": 0.6, "compute": 0.9}, rel=1e-3)


def test_only_kernel_models_know_less_than_the_tdp() -> None:
    """A bound on time has no utilisation of its own: its energy is that of the full TDP."""
    scenario = Scenario(load_model("Llama-3.1-8B").model, "decode", batch=1, prompt=512)
    device = load_device("h100_sxm")
    sheet, kernels = (predict(scenario, device, name).totals() for name in ("datasheet", "calibrated"))
    assert sheet["energy_j"] == pytest.approx(700 * sheet["time_s"])
    assert kernels["energy_j"] < 700 * kernels["time_s"]


def test_measured_power_of_splits_that_took_no_part(shared: Callable[[str], Path]) -> None:
    """Llama-2-70B on 2, 4 and 8 A100 (Splitwise), each predicted by the others: power, and energy of tokens.

    Kernels alone leave out what the device draws while it waits for a script.
    """
    rows = utilised(read_table(shared("data/splitwise_e2e.parquet")))
    assert len(rows) > 20
    error = held_out(rows).abs().median()
    assert max(error["power"], error["eager"]) < 0.1 < error["none"]
