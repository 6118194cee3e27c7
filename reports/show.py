"""Tables of a run as text, CSV or JSON."""

from __future__ import annotations

import json
from typing import Any

from reports import terminal
from reports.units import percent, si, text

COLUMNS: dict[str, tuple[str, terminal.Format]] = {
    "name": ("name", lambda v: _short(text(v))),
    "kind": ("kind", text),
    "phase": ("phase", text),
    "layer": ("layer", text),
    "count": ("count", text),
    "time_s": ("time", lambda v: si(v, "s")),
    "share": ("share", percent),
    "flops": ("FLOP", lambda v: si(v, "FLOP")),
    "bytes": ("bytes", lambda v: si(v, "B")),
    "attained": ("attained", percent),
    "bound": ("bound", text),
    "saving_s": ("saving", lambda v: si(v, "s")),
}
LONGEST = 72
MOST_ROWS = 60


def as_text(shown: dict[str, Any], most: int = MOST_ROWS) -> str:
    """Totals, causes of idle time, the table, and everything that a reader must know of it."""
    rows = shown["rows"]
    columns = {
        key: value for key, value in COLUMNS.items() if any(row.get(key) is not None for row in rows[:most])
    }
    parts = [_totals(shown), terminal.table(rows[:most], columns or COLUMNS, f"time by {shown['by']}")]
    if len(rows) > most:
        rest = sum(row["time_s"] for row in rows[most:])
        parts.append(f"{len(rows) - most} more rows hold {si(rest, 's')}; --format csv lists all.")
    parts += [f"{_short(row['name'])}: {row['warning']}" for row in rows if row["warning"]]
    unknown = shown.get("unknown_kernels", [])
    if unknown:
        parts.append(f"kernels that no rule knows: {percent(sum(k['share'] for k in unknown))} of the time")
        parts += [f"  {percent(k['share'])} {_short(k['name'])}" for k in unknown[:10]]
    parts += [f"{loss['what']} {loss['count']}: {loss['sentence']}" for loss in shown.get("losses", [])]
    return "\n".join(parts) + "\n"


def as_csv(shown: dict[str, Any]) -> str:
    """The rows."""
    import csv
    import io

    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(shown["rows"][0]) if shown["rows"] else list(COLUMNS), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(shown["rows"])
    return out.getvalue()


def as_json(shown: dict[str, Any]) -> str:
    """Everything, in the documented schema."""
    return json.dumps(shown, indent=1, allow_nan=False)


def _totals(shown: dict[str, Any]) -> str:
    totals = shown["totals"]
    lines = []
    for device in shown["devices"]:
        lines.append(
            f"device {device['device']}{' (' + device['name'] + ')' if device.get('name') else ''}: "
            f"{device['kernels']} kernels {si(device['kernel_time_s'], 's', 4)}, busy "
            f"{si(device['gpu_busy_s'], 's', 4)} of {si(device['gpu_span_s'], 's', 4)}, "
            f"idle {percent(device['gpu_idle_s'] / device['gpu_span_s'] if device['gpu_span_s'] else 0)}"
        )
    if totals.get("modelled_share") is not None:
        lines.append(
            f"{percent(totals['modelled_share'])} of the time has a model of its FLOP and bytes, "
            f"{si(totals['unmodelled_s'], 's')} has none"
            + (
                f"; {si(totals['unattributed_s'], 's')} of kernels belongs to no recorded operator"
                if totals["kernels"]
                else ""
            )
        )
    if totals.get("host_time_s"):
        lines.append(f"no device was recorded: {si(totals['host_time_s'], 's')} in operators of the host")
    idle = {cause: value for cause, value in shown.get("idle", {}).items() if value}
    if idle:
        lines.append(
            "idle because of " + ", ".join(f"{cause} {si(value, 's')}" for cause, value in idle.items())
        )
    launches = shown.get("launches") or {}
    if launches.get("calls"):
        call, delay = si(launches["call_s"], "s"), si(launches["delay_s"], "s")
        depth, deepest = launches["queue_depth"], launches["deepest_queue"]
        lines.append(
            f"launching takes {call} a call, a kernel starts {delay} after; "
            f"{depth:.1f} wait in the queue (at most {deepest})"
        )
    if totals.get("communication_s"):
        lines.append(
            f"communication {si(totals['communication_s'], 's')}, "
            f"{si(totals['exposed_s'], 's')} of it beside no computation"
        )
    for each in shown.get("memory", []):
        place = f"device {each['device']}" if each["device"] >= 0 else "the host"
        reserved = each["peak_reserved_bytes"]
        lines.append(
            f"memory of {place}: at most {si(each['peak_allocated_bytes'], 'B')} allocated "
            f"({si(each['peak_s'], 's')} after the first reading)"
            + (f", {si(reserved, 'B')} reserved" if reserved else "")
        )
    if totals.get("small_grids_s"):
        lines.append(f"kernels with fewer blocks than processors: {si(totals['small_grids_s'], 's')}")
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
