"""How fast the machine was while a run was measured, relative to the minutes of its device file.

Both hold the times of the same short reference steps, whose work is the profiled model's in nothing: a ratio
above 1 says that the machine has become slower. It corrects no measurement; it stands beside the error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from roofline.run import POINT

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.run import Run

SAME = ["phase", "model", "dtype", "flops", "bytes"]  # two times of equal work can be compared
COLUMNS = [*POINT, "model", "filed_s", "beside_s", "drift", "drift_q25", "drift_q75"]


def drifts(run: Run, device: Device) -> tuple[pd.DataFrame, str]:
    """Per point, the reference step's time beside it over that in the file; else none, and the reason.

    `drift_q25` and `drift_q75` are the quartiles of the repeats beside the point over the file's median.
    """
    nothing = pd.DataFrame(columns=COLUMNS)
    filed = pd.DataFrame([[getattr(r, c) for c in [*SAME, "median_s"]] for r in device.measured.references])
    beside = run.table("references")
    if run.head.device != device.name:
        return nothing, f"the run was measured on {run.head.device}, not on {device.name}"
    if beside.empty:
        return nothing, "the run has no reference steps; profile the model again"
    if filed.empty:
        return nothing, f"the file of {device.name} has no reference steps; measure its ceilings again"
    filed.columns = pd.Index([*SAME, "filed_s"])
    joined = beside.merge(filed.drop_duplicates(SAME), on=SAME)
    if joined.empty:
        return nothing, f"the reference steps in the file of {device.name} are others than the run's"
    ratios = {
        name: joined[column] / joined["filed_s"]
        for name, column in (("drift", "median_s"), ("drift_q25", "q25_s"), ("drift_q75", "q75_s"))
    }
    return joined.rename(columns={"median_s": "beside_s"}).assign(**ratios)[COLUMNS], ""


def with_drift(table: pd.DataFrame, drift: pd.DataFrame) -> pd.DataFrame:
    """Predicted and measured seconds with the point's drift, and their error once it is taken out.

    The prediction is for the machine as it was when its file was made; times the drift it is for the
    machine as it was when the run was measured. Both are empty where the drift is not known.
    """
    found = table.merge(drift[[*POINT, "drift"]], on=POINT, how="left")
    found["drift"] = found["drift"].astype(float)
    return found.assign(error_after_drift=found["predicted_s"] * found["drift"] / found["measured_s"] - 1)
