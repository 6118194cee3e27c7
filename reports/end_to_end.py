"""Predicted against measured TTFT and TPOT, as terminal text, CSV or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, text
from reports.validation import fidelities_csv, fidelities_json
from roofline.tables import plain_records

if TYPE_CHECKING:
    from roofline.endtoend import EndToEnd

SCORES: terminal.Columns = {
    "quantity": ("quantity", text),
    "rows": ("rows", text),
    "median_ape": ("median |error|", percent),
    "mape": ("mean |error|", percent),
    "bias": ("bias", percent),
    "within": ("within 20 %", percent),
}
CELLS = {"cell": ("model, device, engine, format, tp", text), **SCORES}


def as_text(results: Sequence[EndToEnd]) -> str:
    """Every fidelity's cells, the worst first, all rows together, and the rows that were not predicted."""
    parts = []
    for result in results:
        cells = [{**row, "cell": _name(row)} for row in plain_records(result.summary())]
        parts += [
            f"fidelity {result.fidelity}: TTFT and TPOT, worst first",
            terminal.table(cells, CELLS),
            terminal.table(plain_records(result.totals()), SCORES),
            *(f"{count} rows not predicted: {why}" for why, count in result.left_out.items()),
        ]
    return "\n".join(parts) + "\n"


def _name(row: dict[str, Any]) -> str:
    parts = f" dp {row['dp']}" if row["dp"] > 1 else ""
    drafts = f" {row['drafted']} drafted" if row["drafted"] else ""
    how = f"{row['dtype']} tp {row['tp']}{parts}{drafts}"
    return f"{row['model']} {row['gpu']} {row['backend'] or 'unnamed'} {how}"


def as_csv(results: Sequence[EndToEnd]) -> str:
    """The cells of every fidelity."""
    return fidelities_csv([(result.fidelity, result.summary()) for result in results])


def as_json(results: Sequence[EndToEnd]) -> str:
    """Cells, all rows together and rows without a prediction, per fidelity."""
    return fidelities_json(
        {
            "fidelity": str(result.fidelity),
            "cells": plain_records(result.summary()),
            "totals": plain_records(result.totals()),
            "left_out": result.left_out,
        }
        for result in results
    )
