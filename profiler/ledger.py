"""The byte ledger of a prediction as text, JSON or CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roofline.predict import Prediction


def render(prediction: Prediction, format: str) -> str:
    """Every tensor with its bytes and the assumption behind them, and the sums by role."""
    from roofline.ledger import COLUMNS, formulas, ledger, totals
    from roofline.tables import asked, csv_text

    rows = ledger(prediction)
    if format == "csv":
        return csv_text(rows, COLUMNS)
    head = asked(prediction.scenario, prediction.device, prediction.ceilings)
    data = {**head, "ledger": rows, "totals": totals(rows), "formulas": formulas(prediction)}
    if format == "json":
        import json

        return json.dumps(data, indent=1) + "\n"
    from reports import terminal

    return terminal.ledger(data)
