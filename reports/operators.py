"""Operators of a table with their prediction and, where present, measured times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reports import terminal
from reports.units import in_bytes, percent, seconds, si, text


def _us(microseconds: float | None) -> str:
    return text(None) if microseconds is None else seconds(microseconds * 1e-6)


PREDICTED: terminal.Columns = {
    "flops": ("FLOP", lambda v: si(v, "FLOP")),
    "bytes_moved": ("bytes", in_bytes),
    "compute_s": ("compute", seconds),
    "memory_s": ("memory", seconds),
    "predicted_us": ("predicted", _us),
    "range": ("range", text),
    "bound": ("bound", text),
}
MEASURED: terminal.Columns = {
    "latency_us": ("measured", _us),
    "flop_per_s": ("FLOP/s", lambda v: si(v, "")),
    "byte_per_s": ("B/s", lambda v: si(v, "")),
    "attained": ("of the roofline", percent),
}
BESIDE = ("fidelity", "lower_us", "upper_us", "provenance", "above_ceiling")  # told in other ways


def as_text(rows: Sequence[dict[str, Any]], left: int = 0) -> str:
    """A line per operator: its sizes, the prediction, and the attained share of measured ones.

    `rows` are those of `optable.predict_table`, as plain records; `attained` where `latency_us` was compared.
    `left` are those that were left out.
    """
    from roofline.physics.columns import SIZES

    if not rows:
        return "The table has no rows.\n"
    shown = [{**_told(row), "sizes": _sizes(row, SIZES)} for row in rows]
    beside = {*SIZES, *PREDICTED, *MEASURED, *BESIDE}
    names = [key for key in rows[0] if key not in beside and any(row[key] is not None for row in rows)]
    columns: terminal.Columns = {key: (key, _size) for key in names}
    columns |= {"sizes": ("sizes", text), **PREDICTED}
    if not any(row["range"] for row in shown):
        del columns["range"]
    if any(row.get("attained") is not None for row in shown):
        columns |= MEASURED
    more = f"{left} more rows; -o FILE.csv writes all.\n" if left else ""
    return terminal.table(shown, columns) + more + _above(shown)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A record with its range as text and, where measured, its attained rates."""
    told: dict[str, Any] = {**row, "range": None}
    if row.get("lower_us") is not None:
        told["range"] = f"{_us(row['lower_us'])} to {_us(row['upper_us'])}"
    if row.get("attained") is not None:
        time_s = row["latency_us"] * 1e-6
        told |= {"flop_per_s": row["flops"] / time_s, "byte_per_s": row["bytes_moved"] / time_s}
    return told


def _above(rows: Sequence[dict[str, Any]]) -> str:
    """A warning about times below the data-sheet bound."""
    if not any(row.get("above_ceiling") for row in rows):
        return ""
    return (
        "More than 105 % of the roofline: the data was in a cache, the sizes or the format are not what ran, "
        "or the timer is wrong.\n"
    )


def _sizes(row: dict[str, Any], names: Sequence[str]) -> str:
    """The sizes of a row, which depend on its kind."""
    return ", ".join(f"{name} {_size(row[name])}" for name in names if row.get(name) is not None)


def _size(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else text(value)
