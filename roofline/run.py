"""A measured run: a folder with `run.json`, Parquet tables and raw traces.

Each file is written atomically and `run.json` last, so that an interrupted run still opens with the tables
that it has. Reports are made from it without the device.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roofline.run_head import Head
from roofline.run_tables import ENCODER, LATER, TABLES
from specfiles.errors import InputError
from specfiles.reading import read_json
from specfiles.strict import plain_data, validated
from specfiles.writing import atomic, write_new, write_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path
    head: Head

    def table(self, name: str) -> pd.DataFrame:
        """A table of the run; with its documented columns and no rows where nothing was measured.

        Raises InputError where the file is truncated or lacks a column.
        """
        import pandas as pd

        columns, file = TABLES[name], self.path / f"{name}.parquet"
        if not file.exists():
            return pd.DataFrame(columns=list(columns))
        try:
            table = pd.read_parquet(file)
        except Exception as error:  # pyarrow raises several kinds for a broken file
            raise InputError(
                f"{file}: cannot be read ({str(error).splitlines()[0]}); measure the run again."
            ) from None
        table = _with_later(name, table)
        missing = [column for column in columns if column not in table]
        if missing:
            raise InputError(f"{file}: has no column {missing[0]!r}; expected {', '.join(columns)}.")
        return table

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table of the run atomically."""
        with atomic(self.path / f"{name}.parquet") as draft:
            _with_later(name, table)[list(TABLES[name])].to_parquet(draft, index=False)

    def write_rows(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write tables given as lists of rows, but those without any."""
        import pandas as pd

        for name, rows in tables.items():
            if rows:
                self.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))

    def write_head(self, **changes: Any) -> Run:
        """Write `run.json` with these fields changed, and return the run that it now describes."""
        head = self.head.replace(**changes)
        write_text(self.path / "run.json", _as_json(head))
        return Run(self.path, head)


def _as_json(head: Head) -> str:
    return json.dumps(plain_data(head), indent=1) + "\n"


def _with_later(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that older versions did not write, as NaN, an encoder as none."""
    import pandas as pd

    missing = [column for column in LATER.get(name, ()) if column not in table]
    table = table.assign(**dict.fromkeys(missing, float("nan")))
    if ENCODER not in TABLES[name]:
        return table
    known = pd.to_numeric(table[ENCODER]).fillna(0).astype(int) if ENCODER in table else 0
    return table.assign(**{ENCODER: known})


def open_run(path: Path) -> Run:
    """The run in a folder. Raises InputError for what is missing or broken."""
    if path.is_file():
        raise InputError(f"{path}: is a file, expected the folder of a run.")
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder; `roofline profile MODEL -o {path}` makes one.")
    if not (path / "run.json").exists():
        raise InputError(f"{path}: is not a run, it has no run.json; `roofline profile` writes one.")
    data = read_json(path / "run.json")
    if data.get("schema_version") != SCHEMA:
        raise InputError(
            f"{path / 'run.json'}: schema {data.get('schema_version')!r} is not known; expected {SCHEMA}."
        )
    return Run(path, validated(Head, data, str(path / "run.json")))


def create_run(path: Path, head: Head) -> Run:
    """A new run folder. Raises InputError where a run exists, even one started at the same moment."""
    _refuse_run(path)
    there = path.exists()
    try:
        write_new(path / "run.json", _as_json(head))
    except BaseException:  # an interrupt, too
        if not there:
            with suppress(OSError):  # another writer has files there
                path.rmdir()
        raise
    return Run(path, head)


def refuse_existing(path: Path, own: Collection[str] = ()) -> None:
    """Raise InputError where a new run cannot be written; called before anything long is started.

    Files of something else would be taken for the run's own, or be replaced by them; those named `own` may
    be there.
    """
    _refuse_run(path)
    files = (each.name for each in path.iterdir() if each.is_file()) if path.exists() else ()
    if any(name not in own and not name.startswith(".") for name in files):
        raise InputError(f"{path}: holds files of something else; name another folder.")


def _refuse_run(path: Path) -> None:
    if (path / "run.json").exists():
        raise InputError(f"{path}: a run is already there; name another folder or remove it.")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; name a folder for the run.")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be made, {parent} is not writable; name another folder.")
