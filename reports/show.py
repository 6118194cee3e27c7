"""Tables of a run as text, CSV or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports import terminal
from reports.units import in_bytes, percent, seconds, si, text
from reports.wording import counted, short
from roofline.tables import csv_text

LONGEST = 72  # characters of a name
# What many PyTorch kernels begin with: without it the part that tells them apart fits into a column.
_NAMESPACES = re.compile(r"^void |at::native::|\(anonymous namespace\)::|c10::")
COLUMNS: terminal.Columns = {
    "name": ("name", lambda v: short(_NAMESPACES.sub("", text(v)), LONGEST)),
    "kind": ("kind", text),
    "phase": ("phase", text),
    "layer": ("layer", text),
    "count": ("count", lambda v: text(None) if v is None else f"{v:,}"),
    "time_s": ("time", seconds),
    "share": ("share", percent),
    "flops": ("FLOP", lambda v: si(v, "FLOP")),
    "bytes": ("bytes", in_bytes),
    "attained": ("attained", percent),
    "bound": ("bound", text),
    "saving_s": ("saving", seconds),
    "waves": ("waves", lambda v: "–" if v is None else f"{v:.2f}"),
}
_SECONDS: terminal.Format = lambda v: si(v, "s", 4)  # noqa: E731 - one of a table of formats
STEPS: terminal.Columns = {
    **terminal.POINT,
    "instrumented": ("with ranges", lambda v: "yes" if v else "no"),
    "median_s": ("median", _SECONDS),
    "low_s": ("95 % from", _SECONDS),
    "high_s": ("to", _SECONDS),
    "warm_ups": ("warm-ups", text),
    "repeats": ("repeats", text),
    "outliers": ("outliers", text),
    "ended": ("ended by", text),
}
OUTLIERS: terminal.Columns = {
    **terminal.POINT,
    "instrumented": STEPS["instrumented"],
    "repeat": ("repeat", text),
    "step_s": ("took", _SECONDS),
    "time_s": ("at", _SECONDS),
}
MOST_ROWS = 60
MOST_SAVINGS = 5
MOST_LOST = 6
WORTH_SAYING = 0.01  # minimum share of the devices' time that is mentioned
UNITS = {"hz": "Hz", "w": "W"}  # of quantities, by the end of their names; others are shares


def as_text(shown: dict[str, Any], most: int = MOST_ROWS) -> str:
    """Totals, causes of idle time, the table, and notes."""
    rows = shown["rows"]
    columns = {
        key: value for key, value in COLUMNS.items() if any(row.get(key) is not None for row in rows[:most])
    }
    parts = [
        "\n".join(sentences(shown)) + "\n",
        terminal.table(rows[:most], columns or COLUMNS, f"time by {shown['by']}"),
    ]
    if len(rows) > most:
        rest = sum(row["time_s"] for row in rows[most:])
        parts.append(f"{len(rows) - most} more rows hold {si(rest, 's')}; --format csv lists all.")
    parts += savings(rows)
    parts += _lost(shown)
    parts += _warnings(rows)
    if shown.get("steps"):
        parts.append(terminal.table(shown["steps"], STEPS, "whole steps"))
    if shown.get("outliers"):
        title = "outliers among them, which count in the medians"
        parts.append(terminal.table(shown["outliers"][:most], OUTLIERS, title))
    unknown = shown.get("unknown_kernels", [])
    if unknown:
        parts.append(f"kernels that no rule knows: {percent(sum(k['share'] for k in unknown))} of the time")
        parts += [f"  {percent(k['share'])} {short(k['name'], LONGEST)}" for k in unknown[:10]]
    parts += [f"{loss['what']} {loss['count']}: {loss['sentence']}" for loss in shown.get("losses", [])]
    return "\n".join(parts) + "\n"


def savings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Time above the ceilings, the largest first."""
    ranked = sorted((row for row in rows if row["saving_s"]), key=lambda row: -row["saving_s"])
    if not ranked:
        return []
    first = [f"{short(row['name'], LONGEST)} {si(row['saving_s'], 's')}" for row in ranked[:MOST_SAVINGS]]
    whole = sum(row["saving_s"] for row in ranked)
    return [f"operators at their ceilings would save {si(whole, 's')}: " + ", ".join(first)]


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each warning once, behind the names of its rows."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["warning"]:
            names.setdefault(row["warning"], []).append(short(row["name"], LONGEST))
    return [f"{', '.join(dict.fromkeys(which))}: {warning}" for warning, which in names.items()]


def _lost(shown: Mapping[str, Any]) -> Iterator[str]:
    """The largest losses, each with its remedy."""
    found = [loss for loss in shown.get("lost", []) if loss["share"] >= WORTH_SAYING][:MOST_LOST]
    if found:
        yield "time lost (upper limits, which do not add up), and what would help:"
    for loss in found:
        share, seconds = percent(loss["share"]), si(loss["time_s"], "s")
        yield f"  {share:>6}  {seconds:>7}  {loss['what']}: {loss['why']}; try {loss['help']}"


def as_csv(shown: dict[str, Any]) -> str:
    """The rows."""
    return csv_text(shown["rows"], list(shown["rows"][0] if shown["rows"] else COLUMNS))


def as_json(shown: dict[str, Any]) -> str:
    """Everything, in the documented schema."""
    return json.dumps(shown, indent=1, allow_nan=False)


def sentences(shown: Mapping[str, Any]) -> list[str]:
    """Statements on the whole recording, a sentence each."""
    found = [*_measured(shown), *_devices(shown), *_known(shown), *_waiting(shown), *_readings(shown)]
    totals = shown["totals"]
    if totals.get("small_grids_s"):
        found.append(f"kernels with fewer blocks than processors: {si(totals['small_grids_s'], 's')}")
    if totals.get("last_waves_s"):
        found.append(
            f"last waves of blocks that fill the device in part cost {si(totals['last_waves_s'], 's')}"
        )
    return found


def _measured(shown: Mapping[str, Any]) -> Iterator[str]:
    if run := shown.get("measured"):
        yield f"{run['model']} in {run['dtype']}, {run['mode']}, measured on {run['device']}"
        if run["status"] != "complete":
            measured = "" if shown["rows"] else ", and nothing was measured in it"
            yield f"the run is not complete (status: {run['status']}){measured}"


MOST_DEVICES = 8  # with a line each
MOSTLY = 0.5  # of the time: where less has a model, a line says what would give it one


def _devices(shown: Mapping[str, Any]) -> Iterator[str]:
    several = len({device.get("source") for device in shown["devices"]}) > 1
    for device in shown["devices"][:MOST_DEVICES]:
        share = device["gpu_idle_s"] / device["gpu_span_s"] if device["gpu_span_s"] else 0
        yield (
            f"device {device['device']}{' (' + device['name'] + ')' if device.get('name') else ''}"
            f"{' of ' + str(device['trace']) if several else ''}: "
            f"{counted(device['kernels'], 'kernel')} {si(device['kernel_time_s'], 's', 4)}, busy "
            f"{si(device['gpu_busy_s'], 's', 4)} of {si(device['gpu_span_s'], 's', 4)}, idle {percent(share)}"
        )
    if left := shown["devices"][MOST_DEVICES:]:
        kernels, time_s = (sum(device[key] for device in left) for key in ("kernels", "kernel_time_s"))
        yield f"{counted(len(left), 'more device')}: {counted(kernels, 'kernel')} {si(time_s, 's', 4)}"


def _known(shown: Mapping[str, Any]) -> Iterator[str]:
    totals = shown["totals"]
    if totals.get("modelled_share") is not None:
        loose = f"; {si(totals['unattributed_s'], 's')} of kernels belongs to no recorded operator"
        yield (
            f"{percent(totals['modelled_share'])} of the time has a model of its FLOP and bytes, "
            f"{si(totals['unmodelled_s'], 's')} has none" + (loose if totals["kernels"] else "")
        )
        if totals["modelled_share"] < MOSTLY and totals["kernels"] and "measured" not in shown:
            yield "`import --model NAME`, recorded shapes or tables of `ncu --csv` give kernels their work"
    if any(row["kind"] == "graph" for row in shown["rows"]):
        yield "each graph is one row; `nsys profile --cuda-graph-trace=node` records its kernels"
    if totals.get("host_time_s"):
        yield f"no device was recorded: {si(totals['host_time_s'], 's')} in operators of the host"


def _waiting(shown: Mapping[str, Any]) -> Iterator[str]:
    totals, launches = shown["totals"], shown.get("launches") or {}
    idle = {cause: value for cause, value in shown.get("idle", {}).items() if value}
    if idle:
        yield "idle because of " + ", ".join(f"{cause} {si(value, 's')}" for cause, value in idle.items())
    if launches.get("calls"):
        yield (
            f"a launch call takes {si(launches['call_s'], 's')}, its kernel starts "
            f"{si(launches['delay_s'], 's')} later (medians); {launches['queue_depth']:.1f} kernels wait in "
            f"the queue on average, at most {launches['deepest_queue']}"
        )
    if totals.get("communication_s"):
        wires, exposed = si(totals["communication_s"], "s"), si(totals["exposed_s"], "s")
        yield f"communication {wires}, {exposed} of it beside no computation"


def _readings(shown: Mapping[str, Any]) -> Iterator[str]:
    for each in shown.get("memory", []):
        place = f"device {each['device']}" if each["device"] >= 0 else "the host"
        reserved = each["peak_reserved_bytes"]
        yield (
            f"memory of {place}: at most {si(each['peak_allocated_bytes'], 'B')} allocated "
            f"({si(each['peak_s'], 's')} after the first reading)"
            + (f", {si(reserved, 'B')} reserved" if reserved else "")
        )
    for each in shown.get("readings", []):
        unit = UNITS.get(each["quantity"].rpartition("_")[2])
        mean, least, most = (
            si(each[key], unit) if unit else percent(each[key]) for key in ("mean", "least", "most")
        )
        name = each["quantity"].removesuffix("_hz").removesuffix("_w").replace("_", " ")
        yield f"device {each['device']}: {name} {mean} ({least} to {most}, {each['count']} readings)"
