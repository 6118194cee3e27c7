"""`.ncu-rep`, the binary report of Nsight Compute, through NVIDIA's package ncu-report where installed.

The package parses untrusted bytes in native code, so it runs in a separate process: a crash there does not
end the import.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from profiler.traces.ncu import Measured, as_trace
from profiler.traces.ncumetrics import WANTED, reading
from profiler.traces.sound import Losses
from profiler.traces.tables import Trace
from specfiles.errors import InputError

MAGIC = b"NVR\0"
DEVICE = "launch__device_id"


def read(path: Path) -> Trace:
    """The counters of a report; an InputError where the package is missing or cannot read the file."""
    if find_spec("ncu_report") is None:
        raise InputError(
            f"{path}: reading a .ncu-rep needs the package ncu-report (in llm-roofline's folder, pip install "
            f"'.[nvidia]'), or export it with `ncu --import {path.name} --csv --page raw`."
        )
    ended = subprocess.run(
        [sys.executable, "-m", "profiler.traces.ncurep", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode:
        said = " ".join(ended.stderr.split())[-200:] or f"it ended with {ended.returncode}"
        raise InputError(f"{path}: ncu-report cannot read it ({said}); a newer report needs a newer package.")
    actions = json.loads(ended.stdout)
    if not actions:
        raise InputError(f"{path}: ncu-report finds no profiled kernel in it; it is empty or damaged.")
    return _trace(path, actions)


def _trace(path: Path, actions: list[dict[str, Any]]) -> Trace:
    losses = Losses()
    kernels = []
    for action in actions:
        kernel = Measured(-1, int(action["device"]), str(action["name"]))
        for name, (value, unit) in action["metrics"].items():
            found = reading(name, repr(value), unit)
            if found:
                kernel.metrics[found[0]] = found[1]
        kernels.append(kernel)
    return as_trace(path, kernels, losses)


def listed(report: Any) -> list[dict[str, Any]]:
    """Every action of a loaded report: name, device, and the used metrics with units."""
    found = []
    for range_index in range(report.num_ranges()):
        profiled = report.range_by_idx(range_index)
        for index in range(profiled.num_actions()):
            action = profiled.action_by_idx(index)
            names = [name for name in action.metric_names() if WANTED.match(name)]
            metrics = {name: action.metric_by_name(name) for name in names}
            device = action.metric_by_name(DEVICE)
            found.append(
                {
                    "name": action.name(),
                    "device": -1 if device is None else device.as_uint64(),
                    "metrics": {n: (m.as_double(), m.unit()) for n, m in metrics.items() if m.has_value()},
                }
            )
    return found


if __name__ == "__main__":
    import ncu_report

    json.dump(listed(ncu_report.load_report(sys.argv[1])), sys.stdout)
