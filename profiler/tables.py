"""Read and write tables by file ending: CSV or Parquet; a workload file's operators too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity, ceilings
from specfiles.errors import InputError
from specfiles.reading import exists
from specfiles.writing import atomic
from workloads.descriptor import DESCRIPTORS, load_descriptor

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device


def read_table(path: Path) -> pd.DataFrame:
    """A table from a .csv, .parquet or workload .yaml file."""
    import pandas as pd

    if path.suffix in DESCRIPTORS.suffixes:
        listed = load_descriptor(path).operators
        if not listed:
            raise InputError(
                f"{path} names a model, no operators; predict it with `roofline predict {path}`."
            )
        return pd.DataFrame(listed)
    if not exists(path, Path.is_file):
        raise InputError(f"{path}: no such file; give a CSV or Parquet table of operators.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise a dozen kinds for a broken file
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]}).") from None
    raise InputError(f"{path}: unknown ending {path.suffix!r}; expected .csv, .parquet or .yaml.")


def predict_listed(
    rows: list[dict[str, Any]], device: Device, fidelity: Fidelity, format: str, backend: str = ""
) -> str:
    """Predict the operators that a workload file lists, as a table, JSON or CSV.

    `backend` is that of rows that name none.
    """
    import json

    import pandas as pd

    from reports import terminal
    from reports.validation import plain_records
    from roofline.optable import predict_table

    listed = pd.DataFrame(rows)
    listed = with_backend(listed, backend) if backend else listed
    table = predict_table(listed, ceilings(device, fidelity))
    if format == "csv":
        return str(table.to_csv(index=False))
    records = plain_records(table)
    if format == "json":
        head = {"schema": 1, "hardware": device.name, "fidelity": str(fidelity)}
        return json.dumps({**head, "operators": records}, indent=1)
    return terminal.listed(records)


def with_backend(rows: pd.DataFrame, backend: str) -> pd.DataFrame:
    """The rows, those that name no backend with this one."""
    given = rows["backend"].fillna("").astype(str) if "backend" in rows else ""
    rows = rows.assign(backend=given)
    rows.loc[rows["backend"] == "", "backend"] = backend
    return rows


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole or not at all; the ending decides the format."""
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"{path}: unknown ending {path.suffix!r}; expected .csv or .parquet.")
    with atomic(path) as draft:
        if path.suffix == ".parquet":
            table.to_parquet(draft, index=False)
        else:
            table.to_csv(draft, index=False)
