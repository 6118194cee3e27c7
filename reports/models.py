"""The model catalogue as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from reports import terminal
from reports.units import si, text


def listing(records: Sequence[dict[str, Any]], format: str) -> str:
    """Every model: name, family, parameters."""
    if format == "json":
        return json.dumps(list(records), indent=1)
    columns: dict[str, tuple[str, terminal.Format]] = {
        "name": ("model", text),
        "family": ("family", text),
        "params": ("parameters", lambda v: f"{v:,}"),
        "short": ("", text),
    }
    return terminal.table([{**r, "short": si(r["params"])} for r in records], columns)


def check(records: Sequence[dict[str, Any]]) -> str:
    """Counted against published, and whose count it is."""
    columns: dict[str, tuple[str, terminal.Format]] = {
        "name": ("model", text),
        "params": ("counted", lambda v: f"{v:,}"),
        "published_params": ("reference", lambda v: text(v) if v is None else f"{v:,}"),
        "difference": ("difference", text),
        "published_source": ("reference source", text),
    }
    agreed = sum(record["difference"] == 0 for record in records)
    return (
        terminal.table(records, columns) + f"{agreed} of {len(records)} models agree to the last parameter.\n"
    )
