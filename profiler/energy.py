"""The energy of a step from the device's energy counter: NVML on a GPU, RAPL on a CPU.

Both counters update in jumps, every 20 to 100 ms on a GPU. So steps are repeated, and the window begins and
ends at an update: its energy is exact to the steps in which the two updates fell.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from profiler.rapl import open_rapl
from reports.units import percent

WINDOW_S = 2.0  # between the first and the last update used
PATIENCE_S = 6.0  # without two updates in this time the counter does not count
Counter = Callable[[], float]  # joules since an arbitrary start


@dataclass(frozen=True)
class Energy:
    """Joules of a step, averaged over `steps`."""

    energy_j: float
    power_w: float
    steps: int
    window_s: float
    uncertainty: float  # relative: the two steps in which updates fell, over all steps


def open_counter(device: str) -> tuple[Counter | None, str]:
    """The counter of a device; or None and the reason."""
    if not device.startswith("cuda"):
        rapl, reason = open_rapl()
        return (rapl.total_j if rapl else None), reason
    try:
        import pynvml

        from profiler.power import nvml_handle

        handle = nvml_handle(device)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # NVMLError_NotSupported before Volta
    except Exception as error:  # NVML is optional: time is measured without it
        return None, f"NVML gives no energy of {device} ({error})"
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1e-3, ""  # millijoules


def energy_rows(
    run: Callable[[], Any], counter: Counter | None, device: str, what: str, notes: list[str]
) -> list[dict[str, Any]]:
    """The row of a step in the table `energy`, with a note; no row without a counter."""
    if counter is None:
        return []
    try:
        found = energy_of(_waited_for(run, device), counter)
    except Exception as error:  # NVML lost the GPU, or the counter is no longer readable
        notes.append(f"the energy of {what} was not measured: {error}")
        return []
    if found is None:
        notes.append(f"the energy of {what} was not measured: its counter stood still")
        return []
    notes.append(
        f"{what} takes {found.energy_j:.4g} J (within {percent(found.uncertainty)}), {found.power_w:.0f} W "
        f"over {found.steps} steps"
    )
    return [asdict(found)]


def _waited_for(run: Callable[[], Any], device: str) -> Callable[[], None]:
    """The call, followed by a wait for the device."""

    def step() -> None:
        run()
        if device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(device)

    return step


def energy_of(step: Callable[[], Any], counter: Counter) -> Energy | None:
    """The mean energy of a repeated step that waits for the device.

    None where the counter does not advance or restarts, rather than a wrong number. Raises the counter's
    errors.
    """
    begin = time.perf_counter()
    jumps: list[tuple[float, float, int]] = []  # seconds, joules, completed steps
    last, done = counter(), 0
    while True:
        step()
        done += 1
        now, read = time.perf_counter(), counter()
        if read != last:
            jumps.append((now, read, done))
            last = read
        if len(jumps) > 1 and jumps[-1][0] - jumps[0][0] >= WINDOW_S:
            break
        if now - begin > PATIENCE_S + WINDOW_S:
            break
    if len(jumps) < 2:
        return None
    (t0, e0, n0), (t1, e1, n1) = jumps[0], jumps[-1]
    if not (e1 > e0 and n1 > n0):
        return None
    return Energy((e1 - e0) / (n1 - n0), (e1 - e0) / (t1 - t0), n1 - n0, t1 - t0, 2 / (n1 - n0))
