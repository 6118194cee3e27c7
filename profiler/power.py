"""Sample a GPU's power, energy, clocks, temperature, throttling and memory, or a CPU's power, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from profiler.rapl import Rapl, open_rapl
from reports.units import percent
from roofline.throttle import reasons

PERIOD_S = 0.05
CPU_PERIOD_S = 0.25  # the samples are taken on the measured processor


def nvml_handle(device: str) -> Any:
    """NVML's handle of a CUDA device, found by its UUID.

    CUDA numbers the visible devices, fastest first; NVML numbers all, by PCI bus. Raises NVML's errors.
    """
    import pynvml
    import torch

    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(device).uuid
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:  # of a MIG instance CUDA gives its own (cuDeviceGetUuid_v2)
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def nvlinks(device: str) -> int:
    """Number of a GPU's active NVLinks; 0 where it has none or NVML does not report them."""
    try:
        import pynvml

        handle = nvml_handle(device)
    except Exception:  # NVML is optional
        return 0
    up = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            up += pynvml.nvmlDeviceGetNvLinkState(handle, link) == pynvml.NVML_FEATURE_ENABLED
        except pynvml.NVMLError:  # fewer links than NVML's maximum
            break
    return up


def _temperature(nvml: Any, handle: Any) -> Any:
    """Degrees Celsius; older drivers lack the second function, CUDA 14 is to lack the first."""
    try:
        return nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    except (nvml.NVMLError, AttributeError):
        return nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)


def _throttle(nvml: Any, handle: Any) -> Any:
    """The bits of `roofline.throttle`, by the function of either name, as in `_temperature`."""
    try:
        return nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    except (nvml.NVMLError, AttributeError):
        return nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)


READERS: dict[str, Callable[[Any, Any], float]] = {  # by column of the table `power`
    "power_w": lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    "sm_clock_hz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
    "memory_clock_hz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
    "temperature_c": _temperature,
    "throttle": _throttle,
    "energy_j": lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
    "memory_used_bytes": lambda nvml, handle: nvml.nvmlDeviceGetMemoryInfo(handle).used,
}
LOST_AFTER = 20  # consecutive samples without any value, 1 s: NVML no longer responds


class PowerMonitor:
    """Samples while its block runs; none without NVML or, on a CPU, energy counters."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._rows: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.begin = time.perf_counter()  # the zero of the samples' times
        self.notes: list[str] = []  # why samples are missing or ended

    def __enter__(self) -> PowerMonitor:
        if self._device.startswith("cuda"):
            try:
                import pynvml

                handle = nvml_handle(self._device)
            except Exception as error:  # NVML is optional: time is measured without it
                self.notes.append(f"NVML is not available ({error}): no power, no clocks")
                return self
            self._start(self._sample, pynvml, handle)
        else:
            rapl, reason = open_rapl()
            if rapl is None:
                self.notes.append(reason)
            else:
                self._start(self._sample_cpu, rapl)
        return self

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._thread = threading.Thread(target=target, args=args, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def samples(self) -> list[dict[str, Any]]:
        """The samples so far, a row each; None for values that the device does not report."""
        return list(self._rows)

    def _sample(self, nvml: Any, handle: Any) -> None:
        silent = 0
        while not self._stop.wait(PERIOD_S):
            row = {column: read(reader, nvml, handle) for column, reader in READERS.items()}
            silent = silent + 1 if set(row.values()) == {None} else 0
            if not silent:
                self._rows.append({"time_s": time.perf_counter() - self.begin, **row})
            elif silent == LOST_AFTER:
                seconds = time.perf_counter() - self.begin
                self.notes.append(f"NVML answered no more {seconds:.0f} s after the beginning")
                return

    def _sample_cpu(self, rapl: Rapl) -> None:
        while not self._stop.wait(CPU_PERIOD_S):
            try:
                row = {**dict.fromkeys(READERS), "power_w": rapl.power_w()}
            except (OSError, ValueError) as error:
                self.notes.append(f"the processor's energy is read no more ({error})")
                return
            self._rows.append({"time_s": time.perf_counter() - self.begin, **row})


def read(reader: Callable[[Any, Any], Any], nvml: Any, handle: Any) -> Any:
    """One value, or None where this device or driver does not report it."""
    try:
        return reader(nvml, handle)
    except Exception:
        return None


def clocks(samples: list[dict[str, Any]]) -> list[str]:
    """Median clock and power during a measurement, as sentences."""
    found = []
    for column, what, scale, unit in (
        ("sm_clock_hz", "SM clock", 1e6, "MHz"),
        ("power_w", "power", 1.0, "W"),
    ):
        values = [row[column] for row in samples if row[column] is not None]
        if values:
            found.append(f"median {what} {median(values) / scale:.0f} {unit} of {len(values)} samples")
    return found


def throttling(samples: list[dict[str, Any]]) -> list[str]:
    """A sentence per throttling reason, with its share of the samples."""
    counts: dict[str, int] = {}
    for row in samples:
        for reason in reasons(row["throttle"]):
            counts[reason] = counts.get(reason, 0) + 1
    return [
        f"clocks were held down by {reason} in {percent(count / len(samples), 0)} of {len(samples)} samples"
        for reason, count in counts.items()
    ]
