"""`show` for a measured run: its operators or kernels, one step of each point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from profiler.traces.summary import ROW
from roofline.run import Run
from roofline.run_tables import POINT
from roofline.tables import plain_records
from roofline.validate import ABOVE, predicted_operators
from specfiles.errors import InputError

if TYPE_CHECKING:
    from roofline.ceilings import Ceilings

ABOVE_ALL = "ABOVE CEILING: the data were in a cache, or the work or the timer is wrong"


def show_measured(run: Run, by: str, ceilings: Ceilings | None) -> dict[str, Any]:
    """The documented JSON: times of one step of every point; totals are those of the traced kernels."""
    if by in ("layer", "stream"):
        raise InputError(
            f"{run.path}: was measured operator by operator and knows no {by} of a kernel; "
            "choose --by operator, kernel, phase or kind."
        )
    kernels = run.table("kernels")
    table = kernels.assign(kind=None) if by == "kernel" else _operators(run, ceilings)
    key = {"kernel": "name", "operator": "name", "phase": "phase", "kind": "kind"}[by]
    whole = float(table["time_s"].sum())
    rows = [
        _row(by, name, group, whole)
        for name, group in table.groupby([key, "phase"], dropna=False, sort=False)
    ]
    total = float(kernels["time_s"].sum())
    return {
        "schema": 1,
        "by": by,
        "devices": [],
        "measured": {key: getattr(run.head, key) for key in ("model", "dtype", "mode", "device", "status")},
        "hardware": ceilings.device if ceilings else None,
        "totals": {
            "kernels": int(kernels["count"].sum()),
            "kernel_time_s": total,
            "gpu_busy_s": None,
            "gpu_span_s": None,
            "gpu_idle_s": None,
            "unattributed_s": float(kernels.loc[kernels["operator"].fillna("") == "", "time_s"].sum()),
            "dropped_events": 0,
            "repaired_events": 0,
        },
        "rows": sorted(rows, key=lambda row: -row["time_s"]),
        "steps": plain_records(run.table("steps")),
        "outliers": plain_records(run.table("outliers")),
    }


def _operators(run: Run, ceilings: Ceilings | None) -> pd.DataFrame:
    table = run.table("operators")
    table = table[table["where"] != "alone"]
    table = table.assign(
        time_s=table["median_s"] * table["count"], flops=None, bytes=None, bound_s=None, bound=None
    )
    if ceilings is None or not len(table):
        return table
    predicted = predicted_operators(run, table, ceilings, ceilings)
    work = ["flops", "bytes", "bound_s"]
    predicted[work] = predicted[work].mul(predicted["count"], axis=0)
    return table.drop(columns=[*work, "bound"]).merge(
        predicted[[*POINT, "name", *work, "bound"]], on=[*POINT, "name"], how="left"
    )


def _row(by: str, name: Any, group: pd.DataFrame, whole: float) -> dict[str, Any]:
    time = float(group["time_s"].sum())
    modelled = "flops" in group and group["flops"].notna().any()
    bounded = "bound_s" in group and group["bound_s"].notna().any()
    bound_s = float(group["bound_s"].astype(float).sum()) if bounded else None
    kinds = group["kind"].dropna().unique()
    bounds = group["bound"].dropna().unique() if "bound" in group else []
    above = bounded and (group["bound_s"].astype(float) > ABOVE * group["time_s"]).any()
    values = (
        str(name[0]),
        str(kinds[0]) if len(kinds) == 1 else None,
        str(name[1]),
        None,
        int(group["count"].sum()),
        time,
        time / whole if whole else 0.0,
        *(float(group[work].astype(float).sum()) if modelled else None for work in ("flops", "bytes")),
        bound_s / time if bound_s is not None and time else None,
        float(modelled),
        str(bounds[0]) if len(bounds) == 1 else None,
        max(0.0, time - bound_s) if bound_s is not None else None,
        ABOVE_ALL if above else None,
        None,
    )
    return dict(zip(ROW, values, strict=True))
