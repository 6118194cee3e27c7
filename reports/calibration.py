"""A calibration as a file, and its scores as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, text
from specfiles.strict import plain_data

if TYPE_CHECKING:
    from hwspecs import Calibration, Device
    from hwspecs.schema import Kernel
    from roofline.physics.calibration import Fitted

SCORES: terminal.Columns = {
    "cell": ("cell", text),
    "points": ("rows", text),
    "families": ("families", text),
    "held_out_error": ("held-out MAPE", percent),
    "lower": ("measured/predicted from", lambda v: f"{v:.2f}"),
    "upper": ("to", lambda v: f"{v:.2f}"),
    "coverage": ("coverage", percent),
}


def as_text(fitted: Sequence[Fitted]) -> str:
    """A row per cell, the worst first, each scored on held-out shape families."""
    apart = {_format(one.kernel) for one in fitted if one.kernel.backend or one.kernel.kernel}
    rows = [{**plain_data(one.kernel), "cell": _name(one.kernel, apart)} for one in fitted]
    rows.sort(key=lambda row: -row["held_out_error"])
    return terminal.table(rows, SCORES, "error on shape families held out of the fit, worst first")


def _name(kernel: Kernel, apart: Collection[tuple[str, str, str]]) -> str:
    """A cell; that of any backend where others of its kind and formats, `apart`, name theirs."""
    any_backend = "any backend (scored on backends held out)" if _format(kernel) in apart else ""
    named = "/".join(filter(None, (kernel.backend, kernel.kernel))) or any_backend
    kv = kernel.kv_dtype and f"KV {kernel.kv_dtype}"
    return " ".join(filter(None, (kernel.op, kernel.dtype, kv, named)))


def _format(kernel: Kernel) -> tuple[str, str, str]:
    return kernel.op, kernel.dtype, kernel.kv_dtype


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
