"""Sample power, clocks, temperature and throttling of a CUDA device in a thread of its own."""

from __future__ import annotations

import threading
import time
from typing import Any

PERIOD_S = 0.05


def nvml_handle(device: str) -> Any:
    """NVML's handle of a CUDA device, found by its UUID.

    CUDA numbers the visible devices, fastest first; NVML numbers all, by bus. Raises what NVML raises.
    """
    import pynvml
    import torch

    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(device).uuid
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


class PowerMonitor:
    """Samples while its block runs; without NVML (a CPU, a container without it) there are none."""

    def __init__(self, device: str) -> None:
        self._device = device if device.startswith("cuda") else None
        self._rows: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PowerMonitor:
        if self._device is not None:
            try:
                import pynvml

                handle = nvml_handle(self._device)
            except Exception:  # NVML is a bonus: time is measured without it
                return self
            self._thread = threading.Thread(target=self._sample, args=(pynvml, handle), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def samples(self) -> list[dict[str, Any]]:
        """The samples so far, a row each."""
        return list(self._rows)

    def _sample(self, nvml: Any, handle: Any) -> None:
        begin = time.perf_counter()
        while not self._stop.wait(PERIOD_S):
            try:
                self._rows.append(
                    {
                        "time_s": time.perf_counter() - begin,
                        "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                        "sm_clock_hz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
                        "memory_clock_hz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
                        "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
                        "throttle": nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
                    }
                )
            except Exception:  # a sample that fails is a gap, not an end
                continue


# Bits of NVML's clocks-event (throttle) reasons that mean the device ran slower than it could
# (nvml.h, nvmlClocksEventReasons); idle and a clock that somebody set are not among them.
LIMITS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


def throttling(samples: list[dict[str, Any]]) -> list[str]:
    """A sentence per reason for which clocks were held down, with its share of the samples."""
    counts: dict[str, int] = {}
    for row in samples:
        for reason in {name for bit, name in LIMITS.items() if row["throttle"] & bit}:
            counts[reason] = counts.get(reason, 0) + 1
    return [
        f"clocks were held down by {reason} in {count / len(samples):.0%} of {len(samples)} samples"
        for reason, count in counts.items()
    ]
