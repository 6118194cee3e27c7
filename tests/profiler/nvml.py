"""NVML as its reference describes it, below nvidia-ml-py: C functions that return codes and fill pointers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, LOST = 0, 2, 3, 13, 15  # nvmlReturn_t
UUID = "0a1b"


@dataclass
class Driver:
    """A GPU's state, and the code that each function returns instead where one is set."""

    energy_mj: Callable[[], int] = lambda: 0
    values: dict[str, int] = field(
        default_factory=lambda: {
            "nvmlDeviceGetPowerUsage": 350_000,  # mW
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
        }
    )
    codes: dict[str, int | Callable[[], int]] = field(default_factory=dict)
    lost: bool = False
    kind: str = "GPU"  # or MIG, an instance of a partitioned one
    calls: list[str] = field(default_factory=list)

    def function(self, name: str) -> Callable[..., int]:
        """The C function of a name."""

        def call(*args: Any) -> int:
            self.calls.append(name)
            if self.lost and name.startswith("nvmlDevice"):
                return LOST
            code = self.codes.get(name, SUCCESS)
            return (code() if callable(code) else code) or self._filled(name, *args)

        return call

    def _filled(self, name: str, *args: Any) -> int:
        if name == "nvmlDeviceGetTotalEnergyConsumption":
            args[-1]._obj.value = self.energy_mj()
        elif name == "nvmlDeviceGetMemoryInfo":
            args[-1]._obj.total, args[-1]._obj.used = 80 << 30, 3 << 30
        elif name == "nvmlDeviceGetClockInfo":
            args[-1]._obj.value = {1: 1980, 2: 2619}[args[1] if isinstance(args[1], int) else args[1].value]
        elif name == "nvmlDeviceGetTemperature":
            args[-1]._obj.value = 61
        elif name == "nvmlDeviceGetTemperatureV":
            args[-1]._obj.temperature = 61
        elif name == "nvmlDeviceGetHandleByUUID":
            return SUCCESS if args[0].value == f"{self.kind}-{UUID}".encode() else INVALID_ARGUMENT
        elif name in self.values:
            args[-1]._obj.value = self.values[name]
        return SUCCESS


def install(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Let nvidia-ml-py find this driver, and torch a GPU as far as its UUID goes."""
    from types import SimpleNamespace

    pynvml = pytest.importorskip("pynvml")
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", driver.function)
    sizes = {"total_memory": 80 << 30, "multi_processor_count": 132, "L2_cache_size": 50 << 20}
    properties = SimpleNamespace(uuid=UUID, name="NVIDIA H100", major=9, minor=0, **sizes)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    return driver
