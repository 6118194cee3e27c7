"""What a measurement says of its machine, and what it asks of the system; none of it needs a GPU."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler import environment, power
from profiler.allocator import keep_freed_memory
from profiler.environment import command_line, device_name, last_level_cache_bytes, pick_device
from profiler.power import READERS, PowerMonitor, nvml_handle, throttling
from roofline.run_tables import TABLES
from specfiles.errors import InputError
from tests.profiler.nvml import LOST, NOT_FOUND, NOT_SUPPORTED, Driver, install

torch = pytest.importorskip("torch")

PATIENCE_S = 300.0  # for a thread to be run


def test_facts_are_those_of_this_process() -> None:
    facts = environment.environment("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cores"] == os.cpu_count()
    age = datetime.now(UTC) - datetime.fromisoformat(facts["date"])
    assert timedelta(0) <= age + timedelta(seconds=1) < timedelta(days=1)
    assert facts["processor"] == device_name("cpu")


def test_facts_name_no_person_and_no_folder() -> None:
    """Runs are shared: what identifies a user's machine has no place in them."""
    told = " ".join(str(fact) for fact in environment.environment("cpu").values())
    assert os.path.expanduser("~") not in told
    assert os.getcwd() not in told


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "a-package-that-nobody-has"))
    facts = environment.environment("cpu")
    assert "a-package-that-nobody-has" not in facts
    assert None not in facts.values()


def test_the_command_line_is_as_typed_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/bin/roofline", "profile", "tiny", "-o", "run"])
    assert command_line() == "roofline profile tiny -o run"


def test_the_last_level_cache_is_known_or_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 100_000 < last_level_cache_bytes("cpu") < 10e9
    monkeypatch.setattr(environment, "_cache_bytes", lambda _: 0)
    assert last_level_cache_bytes("cpu") == 32_000_000


@pytest.mark.usefixtures("no_cuda")
def test_without_a_gpu_the_cpu_is_picked_and_cuda_refused() -> None:
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    for asked in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match="torch sees no CUDA device; use --device cpu"):
            pick_device(asked)


def test_with_two_gpus_one_is_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *sizes, device: ones(*sizes))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as NVIDIA's containers have it
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as it is everywhere
    try:
        assert pick_device("auto") == pick_device("cuda") == "cuda:0"
        assert torch.get_float32_matmul_precision() == "highest"  # ceilings of fp32 are not those of TF32
        assert not torch.backends.cudnn.allow_tf32  # nor are its convolutions
    finally:
        torch.set_float32_matmul_precision(before)
    assert pick_device("cuda:1") == "cuda:1"
    assert current == [0, 0, 1]  # events are recorded on the current device
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("asked", ["cuda:2", "cuda:-1", "cuda:x", "cuda:1.0", "tpu", "mps", "CUDA", ""])
def test_what_is_no_device_is_refused_in_one_sentence(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"^[^\n]*\.$"):
        pick_device(asked)


def test_a_gpu_that_cannot_compute_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one for which this torch has no code, or that another process holds: torch lists it."""
    said = "CUDA error: no kernel image is available for execution on the device"

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(
            f"{said}\nCUDA kernel errors might be asynchronously reported at some other API call"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch, "ones", fails)
    with pytest.raises(InputError, match=rf"^cuda:0 cannot compute \({said}\); use --device cpu\.$"):
        pick_device("auto")


@pytest.mark.gpu
def test_facts_of_a_gpu(cuda: str) -> None:
    facts = environment.environment(cuda)
    assert facts["gpu"] == torch.cuda.get_device_name(cuda)
    assert device_name(cuda) == facts["gpu"].removeprefix("NVIDIA ")
    assert facts["multiprocessors"] > 0
    assert last_level_cache_bytes(cuda) == facts["l2_bytes"] > 0


def test_freed_memory_is_kept_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))  # musl, macOS
    assert keep_freed_memory() is False
    monkeypatch.undo()
    if platform.libc_ver()[0] == "glibc":
        assert keep_freed_memory() is True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that NVML knows; every third reading of its power is lost."""
    monkeypatch.setattr(power, "PERIOD_S", 0.001)
    readings = itertools.count(1)
    lost = {"nvmlDeviceGetPowerUsage": lambda: LOST * (next(readings) % 3 == 0)}
    install(Driver(codes=lost), monkeypatch)  # type: ignore[arg-type]


def wait_for(samples: int, monitor: PowerMonitor) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(monitor.samples()) < samples and time.monotonic() < deadline:
        time.sleep(0.001)


def ended(monitor: PowerMonitor) -> bool:
    """Whether its thread has ended, or does soon."""
    assert monitor._thread is not None
    monitor._thread.join(PATIENCE_S)
    return not monitor._thread.is_alive()


@pytest.mark.usefixtures("gpu")
def test_power_is_sampled_in_the_documented_columns() -> None:
    with PowerMonitor("cuda:0") as monitor:
        wait_for(5, monitor)
    rows = monitor.samples()
    assert len(rows) >= 5
    for row in rows:
        assert tuple(row) == TABLES["power"]
        assert (row["sm_clock_hz"], row["memory_clock_hz"]) == (1.98e9, 2.619e9)
    assert {row["power_w"] for row in rows} == {350.0, None}  # a lost reading costs its own value
    assert [row["time_s"] for row in rows] == sorted(row["time_s"] for row in rows)
    assert ended(monitor)  # nothing is sampled behind the block


@pytest.mark.usefixtures("gpu")
def test_an_nvml_that_is_lost_ends_the_sampling_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sampled before stays; what is measured meanwhile goes on."""
    readings = itertools.count()

    def falls_off_the_bus(*_: Any) -> float:
        if next(readings) >= 3 * len(power.READERS):
            raise RuntimeError("GPU is lost")
        return 1.0

    monkeypatch.setattr(power, "READERS", dict.fromkeys(power.READERS, falls_off_the_bus))
    with PowerMonitor("cuda:0") as monitor:
        deadline = time.monotonic() + PATIENCE_S
        while not monitor.notes and time.monotonic() < deadline:
            time.sleep(0.001)
    assert len(monitor.samples()) == 3
    assert len(monitor.notes) == 1
    assert monitor.notes[0].startswith("NVML answered no more")


def test_clocks_are_medians_of_what_was_read() -> None:
    rows = [{"sm_clock_hz": clock, "power_w": None} for clock in (1.98e9, 1.2e9, 1.5e9)]
    assert power.clocks(rows) == ["median SM clock 1500 MHz of 3 samples"]
    assert power.clocks([]) == []


def _no_driver() -> None:
    raise RuntimeError("NVML Shared Library Not Found")


def test_what_a_virtual_gpu_does_not_tell_costs_no_other_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    install(Driver(codes={"nvmlDeviceGetEnforcedPowerLimit": NOT_SUPPORTED}), monkeypatch)
    facts = environment.environment("cuda:0")
    assert (facts["sm_clock_hz"], facts["memory_clock_hz"]) == (1.98e9, 2.619e9)
    assert "driver" in facts
    assert not {"nvml", "power_limit_w"} & set(facts)


@pytest.mark.parametrize(
    "lacking",
    [
        (),
        ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"),  # older drivers
        ("nvmlDeviceGetTemperature", "nvmlDeviceGetCurrentClocksThrottleReasons"),  # CUDA 14 (nvml.h)
    ],
)
def test_functions_of_nvml_that_were_renamed(
    lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Driver(codes=dict.fromkeys(lacking, NOT_FOUND)), monkeypatch)
    import pynvml

    handle = nvml_handle("cuda:0")
    assert [READERS[name](pynvml, handle) for name in ("temperature_c", "throttle")] == [61, 0x4]


def test_a_torch_without_distributed_runs_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such builds have the module, and of its functions this one."""
    import torch

    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")
    assert not environment.shares_steps()


@pytest.mark.parametrize("module", [None, SimpleNamespace(nvmlInit=_no_driver)], ids=["absent", "no driver"])
def test_without_nvml_there_are_no_samples(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with PowerMonitor("cuda:0") as monitor:
        pass
    assert monitor.samples() == []
    assert "NVML is not available" in monitor.notes[0]


def test_a_cpu_asks_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with PowerMonitor("cpu") as monitor:
        pass
    assert monitor.samples() == []


@pytest.mark.usefixtures("gpu")
def test_an_error_inside_the_block_ends_the_sampling() -> None:
    monitor = PowerMonitor("cuda:0")

    def interrupted() -> None:
        with monitor:
            wait_for(1, monitor)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended(monitor)


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0x0, []),
        (0x1, []),  # idle
        (0x4, ["clocks were held down by power cap in 50 % of 2 samples"]),
        (0x60, ["clocks were held down by heat in 50 % of 2 samples"]),  # two bits, one reason
    ],
)
def test_throttling_is_told_with_its_share(bits: int, said: list[str]) -> None:
    assert throttling([{"throttle": bits}, {"throttle": 0}]) == said
    assert throttling([]) == []


@pytest.mark.parametrize(
    ("package", "found", "refused"),
    [("transformers", "4.56.2", True), ("transformers", "4.57.0", False), ("transformers", "5.0.0rc1", False),
     ("torch", "2.5.1+cu124", True), ("torch", "2.13.0a0+git1f2e", False)],
)  # fmt: skip
def test_packages_that_lack_what_is_called_are_refused(
    package: str, found: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest versions are those that an installation asks for."""
    from profiler.cli.options import OLDEST, needs_torch

    asked = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert all(f'"{name}>={".".join(map(str, least))}"' in asked for name, least in OLDEST.items())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.metadata.version", lambda name: found if name == package else "99.0")
    if not refused:
        needs_torch()
        return
    with pytest.raises(InputError, match=f"{package} .* or later, and {re.escape(found)} is installed"):
        needs_torch()
