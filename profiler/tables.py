"""Read and write tables by file ending: CSV, Parquet or JSON; a workload file's operators too."""

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


TABLES = (".csv", ".tsv", ".parquet", ".json")


def read_table(path: Path) -> pd.DataFrame:
    """A table from a .csv, .tsv, .parquet, .json or workload .yaml file."""
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
    if path.suffix not in TABLES:
        raise InputError(f"{path}: unknown ending {path.suffix!r}; expected {', '.join(TABLES)} or .yaml.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return _listed(path) if path.suffix == ".json" else _separated(path)
    except InputError:
        raise
    except Exception as error:  # pandas and pyarrow raise a dozen kinds for a broken file
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]}).") from None


def _separated(path: Path) -> pd.DataFrame:
    """By commas, or by tabs or semicolons where the first line has no comma."""
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    separator = next((s for s in "\t;" if s in head and "," not in head), ",")
    return pd.read_csv(path, sep=separator, skipinitialspace=True)


def _listed(path: Path) -> pd.DataFrame:
    """A list of rows, or the rows under `operators` as `roofline predict --format json` writes them."""
    import json

    import pandas as pd

    read: Any = json.loads(path.read_text(encoding="utf-8"))
    rows: Any = read.get("operators") if isinstance(read, dict) else read
    plain = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if not plain or any(isinstance(value, dict | list) for row in rows for value in row.values()):
        raise InputError(f"{path}: expected a list of rows, each an object of plain values.")
    return pd.DataFrame(rows)


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
