"""Read and write tables by file ending: CSV, Parquet or JSON; a workload file's operators too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError, choose
from specfiles.reading import exists
from specfiles.writing import atomic
from workloads.descriptor import DESCRIPTORS, load_descriptor

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".tsv", ".parquet", ".json")


def read_table(path: Path) -> pd.DataFrame:
    """A table from a .csv, .tsv, .parquet, .json or workload .yaml file."""
    listed = path.suffix in DESCRIPTORS.suffixes and load_descriptor(path).operators
    if listed == []:
        raise InputError(f"{path} names a model, no operators; predict it with `roofline predict {path}`.")
    if not exists(path, Path.is_file):
        raise InputError(f"{path}: no such file; give a CSV or Parquet table of operators.")
    if not listed and path.suffix not in TABLES:
        raise InputError(f"{path}: unknown ending {path.suffix!r}; expected {', '.join(TABLES)} or .yaml.")
    import pandas as pd

    if listed:
        return pd.DataFrame(listed)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return _listed(path) if path.suffix == ".json" else _separated(path)
    except InputError:
        raise
    except Exception as error:  # pandas and pyarrow raise a dozen kinds for a broken file
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]}).") from None


INLINE = re.compile(r"[\w-]+:\w+=.*")


def inline_table(words: Sequence[str]) -> pd.DataFrame:
    """A row for each operator written as KIND:column=value,.., as in gemm:m=4096,n=4096,k=4096,dtype=bf16."""
    import pandas as pd

    from roofline.tablenames import COLUMNS

    rows = []
    for word in words:
        kind, _, given = word.partition(":")
        pairs = [part.partition("=") for part in given.split(",")]
        if not INLINE.fullmatch(word) or any(not (key and equals and value) for key, equals, value in pairs):
            raise InputError(
                f"{word!r} is no operator; write one as gemm:m=4096,n=14336,k=4096,dtype=bf16,latency_us=620."
            )
        if twice := _twice([key for key, *_ in pairs]):
            raise InputError(f"{word!r} has {twice} twice; leave one out.")
        columns = sorted(COLUMNS - {"op"})
        for key, *_ in pairs:
            if key.lower() not in columns:
                raise choose(key, columns, "column of an operator")
        rows.append({"op": kind, **{key: _number(value) for key, _, value in pairs}})
    return pd.DataFrame(rows)


def _twice(names: Sequence[str]) -> str:
    """The first name that stands there twice; empty where none does."""
    return next((name for name in names if name and names.count(name) > 1), "")


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _separated(path: Path) -> pd.DataFrame:
    """By commas, or by tabs or semicolons where the first line has no comma."""
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    separator = next((s for s in "\t;" if s in head and "," not in head), ",")
    names = [name.strip() for name in head.rstrip("\r\n").split(separator)]
    if twice := _twice(names):
        raise InputError(f"{path}: has two columns {twice!r}; leave one out.")
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


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole or not at all; the ending decides the format."""
    if path.suffix not in (".csv", ".parquet", ".json"):
        raise InputError(f"{path}: unknown ending {path.suffix!r}; expected .csv, .parquet or .json.")
    with atomic(path) as draft:
        if path.suffix == ".parquet":
            table.to_parquet(draft, index=False)
        elif path.suffix == ".json":
            table.to_json(draft, orient="records", indent=1, double_precision=15)
        else:
            table.to_csv(draft, index=False)
