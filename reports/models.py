"""The model catalogue as text, CSV or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reports import terminal
from reports.units import si, text
from roofline.tables import as_data


def listing(records: Sequence[dict[str, Any]], format: str) -> str:
    """Every model: name, family, parameters and active parameters."""
    if format != "table":
        return as_data(records, format)
    columns: terminal.Columns = {
        "name": ("model", text),
        "family": ("family", text),
        "params": ("parameters", lambda v: f"{v:,}"),
        "short": ("", text),
        "active": ("active", text),
    }
    shown = [
        {**r, "short": si(r["params"]), "active": "" if _dense(r) else si(r["active_params"])}
        for r in records
    ]
    return terminal.table(shown, columns)


def families(records: Sequence[dict[str, Any]], format: str) -> str:
    """Every family of configs, and how many of those in transformers can be predicted and profiled."""
    if format != "table":
        return as_data(records, format)
    columns: terminal.Columns = {
        "family": ("model_type", text),
        "read": ("predict", _mark),
        "ranges": ("profile", _mark),
        "transformers": ("in transformers", _mark),
    }
    theirs = [record for record in records if record["transformers"]]
    counts = ", ".join(
        f"{sum(bool(record[key]) for record in theirs)} can be {done}"
        for key, done in (("read", "predicted"), ("ranges", "profiled"))
    )
    told = f"of the {len(theirs)} that transformers has code of, {counts}\n" if theirs else ""
    return terminal.table(records, columns) + told


def _mark(value: bool | None) -> str:
    return {True: "yes", False: "", None: "?"}[value]


UNOPENED = " (not opened)"


def _dense(record: dict[str, Any]) -> bool:
    return bool(record["active_params"] == record["params"])


def check(records: Sequence[dict[str, Any]]) -> str:
    """Counted against published parameters with their source; then active parameters."""
    columns: terminal.Columns = {
        "name": ("model", text),
        "params": ("counted", _grouped),
        "reference": ("reference", _grouped),
        "difference": ("difference", text),
        "published_source": ("reference source", text),
    }
    active: terminal.Columns = {
        "name": ("model", text),
        "active_params": ("active, counted", _grouped),
        "published_active": ("published", text),
        "active_convention": ("counting", text),
        "active_source": ("source", text),
    }
    shown = [{**r, "reference": r["published_params"] or r["published_rounded"]} for r in records]
    stated = [
        {**r, "active_source": r["active_source"] + ("" if r["active_source_opened"] else UNOPENED)}
        for r in records
        if r["published_active"] is not None
    ]
    tables = terminal.table(shown, columns) + "\n" + terminal.table(stated, active)
    return tables + "\n".join([*_agreements(records, stated), ""])


def _agreements(records: Sequence[dict[str, Any]], stated: Sequence[dict[str, Any]]) -> Iterator[str]:
    exact = [record["difference"] == 0 for record in records if record["published_params"] is not None]
    rounded = [record["difference"] == 0 for record in records if record["published_params"] is None]
    yield f"{sum(exact)} of {len(exact)} models agree to the last parameter."
    if rounded:
        yield f"{sum(rounded)} of {len(rounded)} agree with a count that is published rounded."
    near = [bool(record["active_agrees"]) for record in stated]
    yield f"{sum(near)} of {len(near)} active counts agree with the published digits."
    if unread := sum(record["active_source_opened"] is False for record in stated):
        yield f"{unread} of these are said to stand in a document that was not opened to check it."


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else text(value)
