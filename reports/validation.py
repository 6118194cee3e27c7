"""A validation as terminal text, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, seconds, text
from roofline.tables import csv_text, plain_records

if TYPE_CHECKING:
    import pandas as pd

    from roofline.ceilings import Fidelity
    from roofline.validate import Validation


def _drift(ratio: float | None) -> str:
    """The slowdown of the machine since its device file was made, for the same work."""
    return percent(None if ratio is None else ratio - 1)


SUMMARY: terminal.Columns = {
    "phase": ("phase", text),
    "bound": ("bound", text),
    "operators": ("operators", text),
    "median_ape": ("median |error|", percent),
    "after_drift": ("after drift", percent),
    "mape": ("mean |error|", percent),
    "bias": ("bias", percent),
    "time_weighted_ape": ("|error| by time", percent),
    "attained": ("attained", percent),
    "above_ceiling": ("above ceiling", text),
}
OPERATORS: terminal.Columns = {
    "phase": ("phase", text),
    "kv_len": ("tokens", text),
    "encoder_len": ("encoder's", text),
    "name": ("operator", text),
    "count": ("count", text),
    "predicted_s": ("predicted", seconds),
    "measured_s": ("measured", seconds),
    "alone_s": ("alone", seconds),
    "error": ("error", percent),
    "attained": ("attained", percent),
    "bound": ("bound", text),
    "above_ceiling": ("", lambda v: "ABOVE CEILING" if v else ""),
}
SUMS: terminal.Columns = {
    **terminal.POINT,
    "predicted_s": ("predicted", seconds),
    "measured_s": ("measured", seconds),
    "error": ("error", percent),
    "drift": ("drift", _drift),
    "error_after_drift": ("error after drift", percent),
}
STEPS = {**SUMS, "unattributed_s": ("outside operators", seconds), "waited_s": ("waited for a CPU", seconds)}
DRIFT: terminal.Columns = {
    **terminal.POINT,
    "filed_s": ("reference with the ceilings", seconds),
    "beside_s": ("beside the point", seconds),
    "drift": ("drift", _drift),
    "drift_q25": ("first quartile", _drift),
    "drift_q75": ("third", _drift),
    "filed_layers_s": ("its layers with the ceilings", seconds),
    "beside_layers_s": ("beside", seconds),
    "layers_drift": ("drift in layers", _drift),
}
UNMATCHED: terminal.Columns = {
    "phase": ("phase", text),
    "name": ("operator", text),
    "side": ("which", text),
    "count": ("count", lambda v: f"{v:.0f}"),
    "seconds": ("time", seconds),
}


def _layers_told(result: Validation) -> list[str]:
    """The sums over layers; a traced module has none."""
    layers = plain_records(result.layers)
    return ["all layers together", terminal.table(layers, SUMS)] if layers else []


def as_text(results: Sequence[Validation], details: bool) -> str:
    """Every fidelity's summary; the operators of the last, and what did not match."""
    parts = []
    for result in results:
        parts += [
            f"fidelity {result.fidelity}: predicted against measured, by phase and bound",
            terminal.table(plain_records(result.summary()), SUMMARY),
            *_layers_told(result),
            "whole steps, including framework code between operators",
            terminal.table(plain_records(result.steps), STEPS),
        ]
    last = results[-1]
    parts += _drift_told(last)
    if details:
        parts += [
            f"operators at fidelity {last.fidelity}",
            terminal.table(plain_records(last.matched), OPERATORS),
        ]
    unmatched = plain_records(last.unmatched)
    parts.append(f"{len(last.matched)} operators matched, {len(unmatched)} did not.")
    if unmatched:
        parts.append(terminal.table(unmatched, UNMATCHED))
    above = int(last.matched["above_ceiling"].sum())
    if above:
        parts.append(
            f"Above 105 % of a measured ceiling: {above}; their data was in a cache, or the model or "
            "the timer is wrong."
        )
    return "\n".join(parts) + "\n"


def _drift_told(result: Validation) -> list[str]:
    if result.drift_unknown:
        return [f"The machine's drift is not known: {result.drift_unknown}.\n"]
    return [
        "drift of the machine: a reference step when the ceilings were measured, and beside each point",
        terminal.table(plain_records(result.drift), DRIFT),
        f"{_which_drift(result.layers_drift_unknown)}\n",
    ]


def _which_drift(layers_drift_unknown: str) -> str:
    """A sentence on the drift that was removed."""
    if not layers_drift_unknown:
        return (
            "Errors of whole steps are corrected by the drift of whole reference steps, those of layers and "
            "operators by the drift of the operators in its layers."
        )
    return (
        "All errors are corrected by the drift of whole reference steps, framework code included: "
        f"{layers_drift_unknown}."
    )


def as_csv(results: Sequence[Validation]) -> str:
    """The operators that matched, at every fidelity."""
    return fidelities_csv([(result.fidelity, result.matched) for result in results])


def fidelities_csv(tables: Sequence[tuple[Fidelity, pd.DataFrame]]) -> str:
    """Tables of the same columns concatenated, with the fidelity as first column."""
    rows = [{"fidelity": str(name), **row} for name, table in tables for row in plain_records(table)]
    return csv_text(rows, ["fidelity", *tables[0][1]])


def as_json(results: Sequence[Validation], gains: Sequence[pd.DataFrame]) -> str:
    """Every table of every fidelity, with the gains of techniques at each."""
    tables = ("matched", "unmatched", "layers", "steps", "drift")
    return fidelities_json(
        {
            "fidelity": str(result.fidelity),
            **{name: plain_records(getattr(result, name)) for name in tables},
            "drift_unknown": result.drift_unknown,
            "layers_drift_unknown": result.layers_drift_unknown,
            "summary": plain_records(result.summary()),
            "techniques": plain_records(gained),
        }
        for result, gained in zip(results, gains, strict=True)
    )


def fidelities_json(found: Iterable[dict[str, Any]]) -> str:
    """Records of the same keys, one per fidelity."""
    return json.dumps({"schema": 1, "fidelities": list(found)}, indent=1)
