"""Tables of a run, by kernel, operator, layer, phase or stream, each with its roofline if work is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.traces.alike import alike
from profiler.traces.idle import idle_causes, launching, overlap, small_grids_s
from profiler.traces.lost import lost
from profiler.traces.rules import known_kernel
from profiler.traces.samples import memory, readings
from profiler.traces.showing import BY
from profiler.traces.tables import Trace
from profiler.traces.totals import device_records, device_totals, loss_records, totals

if TYPE_CHECKING:
    import pandas as pd

    from roofline.ceilings import Ceilings

ROW = (
    "name", "kind", "phase", "layer", "count", "time_s", "share", "flops", "bytes", "attained",
    "modelled_share", "bound", "saving_s", "warning", "waves",
)  # fmt: skip


def show(
    trace: Trace, by: str, ceilings: Ceilings | None = None, rows: pd.DataFrame | None = None
) -> dict[str, Any]:
    """The documented JSON of `roofline show`; `rows` are those of `alike` where they are known already."""
    rows = alike(trace, ceilings) if rows is None else rows
    small = {"small_grids_s": small_grids_s(trace), "last_waves_s": float(rows["last_wave_s"].sum())}
    devices, idle, beside = device_totals(trace), idle_causes(trace), overlap(trace)
    whole = totals(trace, devices)
    return {
        "schema": 1,
        "by": by,
        "devices": device_records(trace, devices),
        "hardware": ceilings.device if ceilings else None,
        "totals": {**whole, **modelled(rows), **beside, **small},
        "idle": idle,
        "lost": lost(rows, idle, beside["exposed_s"], whole["gpu_span_s"]),
        "launches": launching(trace),
        "memory": memory(trace),
        "readings": readings(trace),
        "losses": loss_records(trace),
        "unknown_kernels": _unknown(rows),
        "rows": grouped(rows, by),
    }


def every_grouping(rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The rows of `show` by each of BY; `rows` are those of `alike`."""
    return {by: grouped(rows, by) for by in BY}


def grouped(rows: pd.DataFrame, by: str) -> list[dict[str, Any]]:
    """A record (ROW) per group, the longest first; layers in their order."""
    key = {
        "kernel": ["kernel"],
        "operator": ["operator", "kind", "phase"],
        "layer": ["layer"],
        "phase": ["phase"],
        "stream": ["source", "device", "stream"],
        "kind": ["kind"],
    }[by]
    whole = float(rows["time_s"].sum())
    if by == "operator":  # what no operator explains goes by its kernel's kind
        kinds = "(" + rows["kind"].fillna("unknown") + ")"
        rows = rows.assign(operator=rows["operator"].where(rows["operator"].notna(), kinds))
    groups = rows.groupby(key, dropna=False, sort=False)
    records = [_record(by, name, group, whole) for name, group in groups]
    if by == "layer":
        return sorted(records, key=lambda r: (r["layer"] is None, r["layer"]))
    return sorted(records, key=lambda r: -r["time_s"])


def _record(by: str, name: Any, group: pd.DataFrame, whole: float) -> dict[str, Any]:
    time = float(group["time_s"].sum())
    known = group["how"].notna() & group["bound_s"].notna()
    spent, bound_s = float(group.loc[known, "time_s"].sum()), float(group.loc[known, "bound_s"].sum())
    attained = bound_s / spent if spent and bound_s else None
    modelled_s = float(group.loc[group["how"].notna(), "time_s"].sum())
    limits = group.loc[known].groupby("bound", sort=False)["bound_s"].sum() if known.any() else None
    values = (
        _name(by, name),
        _only(group["kind"])
        if by != "kernel" or "host" in set(group["activity"])
        else known_kernel(str(name[0])).kind,
        _only(group["phase"]),
        _layer(group["layer"]) if by != "phase" else None,
        int(group["count"].sum()),
        time,
        time / whole if whole else 0.0,
        float(group["matrix_flops"].sum() + group["vector_flops"].sum()) if modelled_s else None,
        float(group["work_bytes"].sum()) if modelled_s else None,
        attained,
        modelled_s / time if time else 0.0,
        str(limits.idxmax()) if limits is not None and len(limits) else None,
        max(0.0, spent - bound_s) if attained is not None else None,
        _warning(group),
        _waves(group) if by == "kernel" else None,
    )
    return dict(zip(ROW, values, strict=True))


def _warning(group: pd.DataFrame) -> str | None:
    said = [str(warning) for warning in group["warning"].dropna().unique()]
    above = int(group["above"].sum())
    if above:
        attention = "attention" in set(group.loc[group["above"] > 0, "kind"].dropna())
        why = "a sliding window or shared prefix sees fewer positions, or " if attention else ""
        said.append(
            f"ABOVE CEILING in {above}: {why}the data were in a cache, or the work or the timer is wrong"
        )
    return "; ".join(said) or None


def _name(by: str, name: Any) -> str:
    first = name[0] if isinstance(name, tuple) else name
    if by == "stream":
        source, device, stream = name
        return f"trace {source}, device {device}, stream {stream}"
    if by == "layer":
        return "in no known layer" if first < 0 else f"layer {int(first)}"
    return "unknown" if first is None or first != first else str(first)


def _waves(group: pd.DataFrame) -> float | None:
    known = int(group["in_waves"].sum())
    return float(group["waves"].sum()) / known if known else None


def _only(values: pd.Series) -> str | None:
    found = values.dropna().unique()
    return str(found[0]) if len(found) == 1 else None


def _layer(values: pd.Series) -> int | None:
    found = values.unique()
    return int(found[0]) if len(found) == 1 and found[0] >= 0 else None


def modelled(rows: pd.DataFrame) -> dict[str, Any]:
    """How much of the activities' time has a model of its work, and what of that its ceilings take."""
    whole, known = float(rows["time_s"].sum()), rows["how"].notna()
    limited = rows[known & rows["bound_s"].notna()]
    spent = float(limited["time_s"].sum())
    return {
        "modelled_share": float(rows.loc[known, "time_s"].sum()) / whole if whole else None,
        "unmodelled_s": float(rows.loc[~known, "time_s"].sum()),
        "attained": float(limited["bound_s"].sum()) / spent if spent else None,
    }


def _unknown(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Kernels that no rule knows, with their share of all time."""
    whole = float(rows["time_s"].sum())
    kernels = rows[rows["activity"] == "kernel"]
    sums = kernels.groupby("kernel", observed=True)["time_s"].sum()
    found = [(n, t) for n, t in sums.items() if known_kernel(str(n)).kind == "unknown"]
    return [
        {"name": n, "time_s": t, "share": t / whole if whole else 0.0}
        for n, t in sorted(found, key=lambda x: -x[1])[:50]
    ]
