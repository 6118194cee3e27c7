"""Energy counters as Linux shows them: sums over packages, wraps, and what is said without them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from profiler import power, rapl
from profiler.energy import open_counter
from profiler.power import PowerMonitor, clocks
from profiler.rapl import open_rapl

WRAPS_AT = 262_143_328_850  # of an Intel server, docs.kernel.org/power/powercap/powercap.html


@pytest.fixture
def zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, one with a part of its own that must not be counted again."""
    for name in ("intel-rapl", "intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        if ":" in name:
            (tmp_path / name / "energy_uj").write_text("1000000\n")
            (tmp_path / name / "max_energy_range_uj").write_text(f"{WRAPS_AT}\n")
    monkeypatch.setattr(rapl, "ZONES", tmp_path)
    return tmp_path


def spend(zones: Path, name: str, microjoules: int) -> None:
    (zones / name / "energy_uj").write_text(str(microjoules))


def test_joules_are_of_all_packages_and_of_no_part_twice(zones: Path) -> None:
    found, reason = open_rapl()
    assert found is not None
    assert reason == ""
    spend(zones, "intel-rapl:0", 3_000_000)
    spend(zones, "intel-rapl:0:0", 9_000_000)
    spend(zones, "intel-rapl:1", 1_500_000)
    assert sum(package.spent_j() for package in found.packages) == pytest.approx(2.5)
    assert sum(package.spent_j() for package in found.packages) == 0


def test_a_counter_that_begins_anew_loses_nothing(zones: Path) -> None:
    spend(zones, "intel-rapl:0", WRAPS_AT - 1_000_000)
    found, _ = open_rapl()
    assert found is not None
    spend(zones, "intel-rapl:0", 500_000)
    assert sum(package.spent_j() for package in found.packages) == pytest.approx(1.5)


def test_power_is_energy_over_time(zones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = open_rapl()
    assert found is not None
    monkeypatch.setattr(rapl.time, "perf_counter", lambda: found.read_at + 2.0)
    spend(zones, "intel-rapl:0", 1_000_000 + 100_000_000)
    assert found.power_w() == pytest.approx(50.0)


@pytest.mark.usefixtures("zones")
def test_a_cpu_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "CPU_PERIOD_S", 0.005)
    with PowerMonitor("cpu") as monitor:
        deadline = time.monotonic() + 300
        while not monitor.samples() and time.monotonic() < deadline:
            time.sleep(0.005)
    row = monitor.samples()[0]
    assert (row["power_w"], row["sm_clock_hz"]) == (0.0, None)  # nobody spent anything
    assert clocks([row])[0].startswith("median power 0 W")
    assert monitor.notes == []


def test_a_machine_without_counters_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapl, "ZONES", tmp_path)
    with PowerMonitor("cpu") as monitor:
        pass
    counter, reason = open_counter("cpu")
    assert monitor.notes == [f"no energy counters (RAPL) on this machine: {rapl.NO_POWER}"]
    assert (monitor.samples(), counter) == ([], None)
    assert reason.startswith("no energy counters (RAPL)")


def test_counters_of_root_are_named(zones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Path.read_text

    def refuse(path: Path, *args: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(path)
        return genuine(path, *args)

    monkeypatch.setattr(Path, "read_text", refuse)
    found, reason = open_rapl()
    assert found is None
    assert "intel-rapl:0" + os.sep + "energy_uj may be read by root only" in reason
