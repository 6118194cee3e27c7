"""Scores of a measured table as terminal text, CSV or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, text
from reports.validation import fidelities_csv, fidelities_json
from roofline.ceilings import Fidelity
from roofline.tables import plain_records

if TYPE_CHECKING:
    from roofline.scores import Scores


CELLS: terminal.Columns = {
    "cell": ("cell", text),
    "regime": ("regime", text),
    "rows": ("rows", text),
    "mape": ("mean |error|", percent),
    "median_ape": ("median |error|", percent),
    "bias": ("bias", percent),
    "r2": ("R2 of log", lambda v: text(None) if v is None else f"{v:.4f}"),
    "coverage": ("in interval", percent),
    "above_ceiling": ("above ceiling", text),
}
MEDIANS: terminal.Columns = {
    "op": ("op", text),
    "dtype": ("dtype", text),
    "cells": ("cells", text),
    "rows": ("rows", text),
    "median_mape": ("median over cells of mean |error|", percent),
    "worst_mape": ("worst cell", percent),
}
MOST_FLAGGED = 10


def as_text(results: Sequence[Scores]) -> str:
    """Every fidelity's cells, the worst first, its medians, and the rows that beat the data sheet."""
    parts = []
    for result in results:
        rows = [{**row, "cell": cell_name(row)} for row in plain_records(result.summary())]
        parts += [
            f"fidelity {result.fidelity}: predicted against measured, worst cell first",
            terminal.table(rows, CELLS),
        ]
        if len({row["cell"] for row in rows}) > 1:
            parts.append(terminal.table(plain_records(result.medians()), MEDIANS))
        if result.fidelity is Fidelity.CORRECTED:
            said = f"{result.corrected} of {len(result.rows)} rows are corrected, the others calibrated."
            parts.append(f"{said} Rows that trained a corrector flatter it; docs/accuracy.md holds them out.")
    last = results[-1]
    parts += [f"{count} rows left out: {why}." for why, count in last.left_out.items()]
    above = last.rows[last.rows["above_ceiling"]].sort_values("attained", ascending=False)
    if len(above):
        parts.append(
            f"{len(above)} rows beat the data sheet by more than 5 %: their data was in a cache, their sizes "
            f"are not what ran, or a ceiling is wrong. The first {min(len(above), MOST_FLAGGED)}:"
        )
        parts += [f"  row {label}: {_told(row)}" for label, row in above.head(MOST_FLAGGED).iterrows()]
    return "\n".join(parts) + "\n"


def cell_name(row: dict[str, Any]) -> str:
    """A cell by its names, in the order of the columns."""
    kv = f"KV {row['kv_dtype']}" if row["kv_dtype"] else ""
    return " ".join(
        filter(None, (row["op"], row["dtype"], kv, row["backend"], row["kernel"], row["distribution"]))
    )


def _told(row: Any) -> str:
    attained = f"{row['attained']:.2f} times the data sheet"
    return f"{cell_name(row)}, measured {row['latency_us']:.4g} us, {attained}"


def as_csv(results: Sequence[Scores]) -> str:
    """The cells of every fidelity."""
    return fidelities_csv([(result.fidelity, result.summary()) for result in results])


def as_json(results: Sequence[Scores]) -> str:
    """Cells, medians, what was left out and the flagged rows, per fidelity."""
    return fidelities_json(
        {
            "fidelity": str(result.fidelity),
            "cells": plain_records(result.summary()),
            "medians": plain_records(result.medians()),
            "left_out": result.left_out,
            **({"corrected": result.corrected} if result.fidelity is Fidelity.CORRECTED else {}),
            "above_ceiling": [
                {"row": str(label), "attained": float(row["attained"])}
                for label, row in result.rows[result.rows["above_ceiling"]].iterrows()
            ],
        }
        for result in results
    )
