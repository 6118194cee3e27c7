"""Drift: how fast the machine was while a run was measured, relative to when its device file was measured.

Both record the times of the same short reference steps, which are independent of the profiled model. A ratio
above 1 means that the machine has become slower. Measurements are not corrected; the drift is shown beside
the error.

Operators and the framework's code between them may slow down differently, so there are two ratios: of whole
reference steps, for whole steps; and of the operators inside their layers, for operators and layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hwspecs import Device
from roofline.run import Run
from roofline.run_tables import POINT

SAME = ["phase", "model", "dtype", "flops", "bytes"]  # two times of equal work can be compared
RATIOS = {  # what was measured beside the point, over what the file has of the same step
    "drift": ("beside_s", "filed_s"),
    "drift_q25": ("q25_s", "filed_s"),
    "drift_q75": ("q75_s", "filed_s"),
    "layers_drift": ("beside_layers_s", "filed_layers_s"),
}
COLUMNS = [*POINT, "model", "filed_s", "beside_s", "drift", "drift_q25", "drift_q75"]
COLUMNS += ["filed_layers_s", "beside_layers_s", "layers_drift"]


@dataclass(frozen=True)
class Drifts:
    """Per point, the time of the reference step over that in the device file: whole, and within its layers.

    `drift_q25` and `drift_q75` are the quartiles of the repeats beside the point over the file's median.
    Where there is none, `unknown` says why; where there is none within layers, `layers_unknown`.
    """

    table: pd.DataFrame
    unknown: str = ""
    layers_unknown: str = ""

    def beside_steps(self, table: pd.DataFrame) -> pd.DataFrame:
        """Whole steps with the drift of whole reference steps."""
        return _corrected(table, self.table[[*POINT, "drift"]])

    def beside_layers(self, table: pd.DataFrame) -> pd.DataFrame:
        """Operators, or sums of them, with the drift within layers; if unknown, with that of the step."""
        known = self.table["layers_drift"].fillna(self.table["drift"])
        return _corrected(table, self.table[POINT].assign(drift=known))


def drifts(run: Run, device: Device) -> Drifts:
    """The drift at each point of a run, relative to its device file."""
    filed = pd.DataFrame(
        [[*(getattr(r, c) for c in SAME), r.median_s, r.layers_s] for r in device.measured.references]
    )
    beside = run.table("references")
    if run.head.device != device.name:
        on = run.head.device or "a device that it does not name"
        return _none(f"the run was measured on {on}, not on {device.name}")
    if beside.empty:
        return _none("the run has no reference steps; profile the model again")
    if filed.empty:
        return _none(f"the file of {device.name} has no reference steps; measure its ceilings again")
    filed.columns = pd.Index([*SAME, "filed_s", "filed_layers_s"])
    beside = beside.rename(columns={"median_s": "beside_s", "layers_s": "beside_layers_s"})
    joined = beside.merge(filed.drop_duplicates(SAME), on=SAME)
    if joined.empty:
        return _none(f"the reference steps in the file of {device.name} are others than the run's")
    ratios = {
        name: joined[above].astype(float) / joined[below].astype(float)
        for name, (above, below) in RATIOS.items()
    }
    return Drifts(joined.assign(**ratios)[COLUMNS], layers_unknown=_no_layers(joined, device))


def _none(reason: str) -> Drifts:
    return Drifts(pd.DataFrame(columns=COLUMNS), reason)


def _no_layers(joined: pd.DataFrame, device: Device) -> str:
    """Why the drift within layers is unknown at some point; empty where it is known."""
    if joined["filed_layers_s"].isna().any():
        return f"the file of {device.name} has no times within their layers; measure its ceilings again"
    if joined["beside_layers_s"].isna().any():
        return "the run has no times within their layers; profile the model again"
    return ""


def _corrected(table: pd.DataFrame, drift: pd.DataFrame) -> pd.DataFrame:
    """Predicted and measured seconds with the point's drift, and their error without it.

    A prediction describes the machine at the time of its device file; multiplied by the drift, at the time of
    the run. Both are NaN where the drift is unknown.
    """
    found = table.merge(drift, on=POINT, how="left")
    found["drift"] = found["drift"].astype(float)
    return found.assign(error_after_drift=found["predicted_s"] * found["drift"] / found["measured_s"] - 1)
