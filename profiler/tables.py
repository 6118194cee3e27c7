"""Predictions of the operators listed in a workload file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity, ceilings

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device


def predict_listed(
    rows: list[dict[str, Any]], device: Device, fidelity: Fidelity, format: str, backend: str = ""
) -> str:
    """Predict the operators listed in a workload file, as a table, JSON or CSV.

    `backend` applies to rows that name none.
    """
    import json

    import pandas as pd

    from reports import operators
    from roofline.optable import predict_table
    from roofline.tables import plain_records

    listed = pd.DataFrame(rows)
    listed = with_backend(listed, backend) if backend else listed
    table = predict_table(listed, ceilings(device, fidelity))
    if format == "csv":
        return str(table.to_csv(index=False))
    records = plain_records(table)
    if format == "json":
        head = {"schema": 1, "hardware": device.name, "fidelity": str(fidelity)}
        return json.dumps({**head, "operators": records}, indent=1)
    return operators.as_text(records)


def with_backend(rows: pd.DataFrame, backend: str) -> pd.DataFrame:
    """The rows, with this backend where they name none."""
    given = rows["backend"].fillna("").astype(str) if "backend" in rows else ""
    rows = rows.assign(backend=given)
    rows.loc[rows["backend"] == "", "backend"] = backend
    return rows
