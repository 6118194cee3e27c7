"""A calibration as a file, and its scores as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, text
from specfiles.strict import plain_data

if TYPE_CHECKING:
    from hwspecs import Calibration, Device
    from roofline.physics.calibration import Fitted

SCORES: terminal.Columns = {
    "cell": ("cell", text),
    "points": ("rows", text),
    "families": ("families", text),
    "held_out_error": ("held-out MAPE", percent),
    "lower": ("measured/predicted from", lambda v: f"{v:.2f}"),
    "upper": ("to", lambda v: f"{v:.2f}"),
    "coverage": ("coverage", lambda v: text(None) if v is None else percent(v)),
}


def as_text(fitted: Sequence[Fitted]) -> str:
    """A row per cell, the worst first, each scored on held-out shape families."""
    rows = [{**plain_data(entry.kernel), "cell": _name(entry)} for entry in fitted]
    rows.sort(key=lambda row: -row["held_out_error"])
    return terminal.table(rows, SCORES, "error on shape families held out of the fit, worst first")


def _name(entry: Fitted) -> str:
    k = entry.kernel
    named = "/".join(filter(None, (k.backend, k.kernel))) or "any backend (scored on backends held out)"
    return " ".join(filter(None, (k.op, k.dtype, k.kv_dtype and f"KV {k.kv_dtype}", named)))


def as_file(device: Device, found: Calibration, suffix: str) -> str:
    """The calibration alone (JSON), or the device file with it (YAML)."""
    if suffix == ".json":
        return _one_kernel_a_line(device.name, found)
    import yaml

    data: dict[str, Any] = plain_data(device.replace(calibration=found))
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


def _one_kernel_a_line(device: str, found: Calibration) -> str:
    """Compact, with a line per kernel, so that a new fit of a kernel changes only its line."""
    import json

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    data = plain_data(found)
    kernels = ",\n".join(compact(kernel) for kernel in data.pop("kernels"))
    head = compact({"schema": 1, "device": device, "calibration": data})
    return f'{head[:-2]},"kernels":[\n{kernels}\n]}}}}\n'
