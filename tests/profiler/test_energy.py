"""Energy of a step from counters that jump, on paper; a counter that fails costs its own rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from profiler import energy, power
from profiler.energy import energy_of, energy_rows, open_counter
from profiler.power import PowerMonitor
from roofline.run_tables import POINT, TABLES
from tests.profiler.nvml import LOST, NOT_SUPPORTED, Driver, install

PERIOD_S = 0.1  # of NVML's counter on a data-center GPU


class Clock:
    """Time that steps and nothing else let pass, and a device that draws power meanwhile."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step_s: float, power_w: float, period_s: float
    ) -> None:
        self.now, self.step_s, self.power_w, self.period_s = 1000.0, step_s, power_w, period_s
        monkeypatch.setattr(energy.time, "perf_counter", lambda: self.now)

    def step(self) -> None:
        self.now += self.step_s

    def joules(self) -> float:
        """What the counter shows: the energy until its last jump."""
        return int(self.now / self.period_s) * self.period_s * self.power_w


@pytest.mark.parametrize("step_s", [0.003, 0.017, 0.3])
def test_the_energy_of_a_step_is_its_time_by_the_power(
    step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, step_s, power_w=400.0, period_s=PERIOD_S)
    found = energy_of(clock.step, clock.joules)
    assert found is not None
    assert found.energy_j == pytest.approx(400.0 * step_s, rel=found.uncertainty)
    assert found.power_w == pytest.approx(400.0, rel=found.uncertainty)
    assert found.window_s >= energy.WINDOW_S
    assert found.uncertainty == 2 / found.steps


def test_a_step_of_whole_jumps_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.125, power_w=256.0, period_s=0.125)
    found = energy_of(clock.step, clock.joules)
    assert found is not None
    assert found.energy_j == 32.0


def test_a_counter_that_stands_still_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.01, power_w=0.0, period_s=PERIOD_S)
    assert energy_of(clock.step, clock.joules) is None
    assert clock.now < 1000 + energy.PATIENCE_S + energy.WINDOW_S + 1


def test_a_counter_that_begins_anew_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the driver was loaded again."""
    clock = Clock(monkeypatch, 0.05, power_w=300.0, period_s=PERIOD_S)
    assert energy_of(clock.step, lambda: clock.joules() if clock.now < 1001 else clock.joules() - 3e5) is None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Clock]:
    clock = Clock(monkeypatch, 0.004, power_w=500.0, period_s=PERIOD_S)
    return install(Driver(energy_mj=lambda: round(clock.joules() * 1e3)), monkeypatch), clock


def test_an_instance_of_a_partitioned_gpu_tells_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA gives its own UUID, of another kind in NVML; power and energy are those of all instances."""
    import pynvml

    unknown = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
    install(Driver(kind="MIG", codes=dict.fromkeys(unknown, NOT_SUPPORTED)), monkeypatch)
    handle = power.nvml_handle("cuda:0")
    read = {name: power.read(reader, pynvml, handle) for name, reader in power.READERS.items()}
    assert read["memory_used_bytes"] == 3 << 30
    assert (read["power_w"], read["energy_j"]) == (None, None)
    assert open_counter("cuda:0") == (None, "NVML gives no energy of cuda:0 (Not Supported)")


def test_nvml_counts_in_millijoules(gpu: tuple[Driver, Clock]) -> None:
    counter, reason = open_counter("cuda:0")
    assert counter is not None
    assert reason == ""
    notes: list[str] = []
    (row,) = energy_rows(gpu[1].step, counter, "cuda:0", "decode", notes)
    assert (*POINT, *row) == TABLES["energy"]
    assert row["energy_j"] == pytest.approx(2.0, rel=row["uncertainty"])
    assert notes[0].startswith("decode takes 2")


@pytest.mark.parametrize(
    ("code", "said"), [(NOT_SUPPORTED, "Not Supported"), (LOST, "GPU is lost")], ids=["before Volta", "lost"]
)
def test_a_gpu_without_the_counter_is_measured_without(
    code: int, said: str, gpu: tuple[Driver, Clock]
) -> None:
    gpu[0].codes["nvmlDeviceGetTotalEnergyConsumption"] = code
    counter, reason = open_counter("cuda:0")
    assert counter is None
    assert said in reason
    assert energy_rows(gpu[1].step, counter, "cuda:0", "decode", []) == []


def test_a_gpu_that_is_lost_while_it_is_measured_is_told(gpu: tuple[Driver, Clock]) -> None:
    driver, clock = gpu
    counter, _ = open_counter("cuda:0")

    def step() -> None:
        clock.step()
        driver.lost = clock.now > 1000.5

    notes: list[str] = []
    assert energy_rows(step, counter, "cuda:0", "decode", notes) == []
    assert notes == ["the energy of decode was not measured: GPU is lost"]


@pytest.mark.usefixtures("gpu")
def test_the_monitor_samples_what_nvidia_ml_py_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through nvidia-ml-py itself: names, units and structures are those of the library."""
    from profiler import power

    monkeypatch.setattr(power, "PERIOD_S", 0.001)
    with PowerMonitor("cuda:0") as monitor:
        for _ in range(300_000):
            if monitor.samples():
                break
            monitor._stop.wait(0.001)
    row = monitor.samples()[0]
    expected = {
        "power_w": 350.0, "sm_clock_hz": 1.98e9, "memory_clock_hz": 2.619e9, "temperature_c": 61,
        "throttle": 4, "memory_used_bytes": 3 << 30,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["energy_j"] is not None
    assert power.throttling(monitor.samples())[0].startswith("clocks were held down by power cap in 100 %")


def test_a_cpu_counts_with_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """15 W in jumps of one millisecond, as RAPL updates, with a wrap on the way."""
    from profiler import rapl

    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    wraps = 1_000_000  # microjoules: often
    (zone / "max_energy_range_uj").write_text(str(wraps))
    (zone / "energy_uj").write_text("0")
    monkeypatch.setattr(rapl, "ZONES", tmp_path)
    clock = Clock(monkeypatch, 0.02, power_w=15.0, period_s=0.001)

    def step() -> None:
        clock.step()
        (zone / "energy_uj").write_text(str(round(clock.joules() * 1e6) % wraps))

    step()
    counter, _ = open_counter("cpu")
    assert counter is not None
    found = energy_of(step, counter)
    assert found is not None
    assert found.energy_j == pytest.approx(0.3, rel=0.01)


@pytest.mark.gpu
def test_a_gpu_under_load_draws_more_than_idle_and_less_than_its_limit(cuda: str) -> None:
    """Square products for some seconds, beside the power that NVML samples."""
    import torch

    counter, reason = open_counter(cuda)
    if counter is None:
        pytest.skip(reason)
    import pynvml

    from profiler.power import nvml_handle

    limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(nvml_handle(cuda)) / 1000
    a = torch.randn(8192, 8192, device=cuda, dtype=torch.bfloat16)

    def products() -> Any:
        return [a @ a for _ in range(5)][-1]

    for _ in range(20):  # up to a steady clock
        products()
    with PowerMonitor(cuda) as monitor:
        (row,) = energy_rows(products, counter, cuda, "products", [])
    sampled = [sample["power_w"] for sample in monitor.samples() if sample["power_w"]][10:]
    assert 0.1 * limit < row["power_w"] < 1.1 * limit
    assert row["power_w"] == pytest.approx(sum(sampled) / len(sampled), rel=0.15)
