"""Measured and predicted gains of techniques in a run, as text or records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, seconds, text
from roofline.tables import plain_records

if TYPE_CHECKING:
    import pandas as pd


def _times(gain: float | None) -> str:
    return "–" if gain is None else f"{gain:.2f}x"


COLUMNS: terminal.Columns = {
    "phase": ("phase", text),
    "kv_len": ("tokens", text),
    "technique": ("technique", text),
    "base_s": ("measured without", seconds),
    "treated_s": ("with", seconds),
    "gain": ("measured gain", _times),
    "known": ("median within", text),
    "made": ("repeats", text),
    "predicted_gain": ("predicted gain", _times),
    "error": ("error", percent),
    "deviation": ("results differ by", lambda v: "–" if v is None else f"{v:.1g}"),
}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A row with a text of its repeats; older runs lack the gain's interval."""
    low, high, ended = row["gain_low"], row["gain_high"], row["ended"]
    known = None if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return {**row, "known": known, "made": f"{row['repeats']}, {ended}" if ended else str(row["repeats"])}


def as_text(gains: pd.DataFrame) -> str:
    """A table, and a sentence for each technique that cannot be predicted; nothing without any."""
    rows = plain_records(gains)
    if not rows:
        return ""
    notes = [f"{row['technique']}: {row['remark']}" for row in rows if row["remark"]]
    notes += [f"not predicted: {row['note']}" for row in rows if row["note"]]
    head = "techniques: the same step without and with each, measured in turn, beside the prediction"
    return (
        "\n".join(
            ["", head, terminal.table(list(map(_told, rows)), COLUMNS), *dict.fromkeys(notes), ""]
        ).rstrip("\n")
        + "\n"
    )


def records(gains: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """The rows for a report, each with its step and its repeats in words; older runs have no remark."""
    return tuple(
        {
            **row,
            "step": f"{row['phase']}, batch {row['batch']}, {row['q_len']} of {row['kv_len']} tokens",
            "repeats": _told(row)["made"],
        }
        for row in plain_records(gains)
    )
