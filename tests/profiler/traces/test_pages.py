"""Tables read from their pages say what SQLite says of them."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiler.traces import database
from profiler.traces.database import Database
from profiler.traces.pages import NotPlainError, Pages
from specfiles.errors import InputError

WIDE = st.one_of(
    st.none(), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**40), 2**40)
)
ROW = st.tuples(WIDE, st.one_of(WIDE, st.text(max_size=90)), WIDE)


def scanned(path: Path, columns: tuple[str, ...] = ("a", "c")) -> list[tuple[Any, ...]]:
    asked = {name: f'"{name}"' for name in columns}
    tables = Database(path).scan("t", asked, lambda b: pa.Table.from_batches([b]))
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def asked_of_sqlite(path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as file:
        found = file.execute("SELECT a, c FROM t ORDER BY rowid").fetchall()
    file.close()
    return found


def write(
    path: Path, rows: list[Any], page: int, repeat: int, declared: str = "a INTEGER, b, c INTEGER"
) -> None:
    with sqlite3.connect(path) as file:
        file.execute(f"PRAGMA page_size = {page}")
        file.execute(f"CREATE TABLE t ({declared})")
        file.executemany("INSERT INTO t (a, b, c) VALUES (?, ?, ?)", rows * repeat)
        file.execute("DELETE FROM t WHERE rowid % 7 = 3")
    file.close()


@pytest.fixture(autouse=True)
def from_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LARGE_BYTES", 0)
    monkeypatch.setattr(database, "PIECE_PAGES", 3)


@given(st.lists(ROW, min_size=1, max_size=20), st.sampled_from([512, 4096]), st.sampled_from([1, 40]))
@example([(1, "x" * 5000, 2), (3, None, 4)], 512, 40)  # rows over several pages
@settings(max_examples=40, deadline=None)
def test_pages_hold_what_sqlite_says(rows: list[Any], page: int, repeat: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.sqlite"
        write(path, rows, page, repeat)
        assert scanned(path) == asked_of_sqlite(path)


def test_plain_tables_do_not_ask_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.sqlite"
    write(path, [(n, None, -n) for n in range(3000)], 4096, 1)
    monkeypatch.setattr(Database, "_read", lambda *_: pytest.fail("SQLite was asked"))
    assert len(scanned(path)) == 3000 - len(range(3, 3001, 7))


@pytest.mark.parametrize(
    "declared", ["a INTEGER PRIMARY KEY, b, c INTEGER", "a INTEGER, b, c INTEGER, d AS (a + 1) STORED"]
)
def test_keys_and_generated_columns_are_asked_of_sqlite(tmp_path: Path, declared: str) -> None:
    path = tmp_path / "t.sqlite"
    write(path, [(n, None, -n) for n in range(3000)], 512, 1, declared)
    assert scanned(path) == asked_of_sqlite(path)


def test_columns_added_later_are_asked_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    write(path, [(n, None, -n) for n in range(300)], 512, 1)
    with sqlite3.connect(path) as file:
        file.execute("ALTER TABLE t ADD COLUMN e INTEGER DEFAULT 5")
    file.close()
    assert {e for (e,) in scanned(path, ("e",))} == {5}


@given(st.integers(0, 2**16), st.binary(min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_damaged_pages_end_in_numbers_or_a_sentence(at: int, wrong: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.sqlite"
        write(path, [(n, None, -n) for n in range(2000)], 512, 1)
        data = bytearray(path.read_bytes())
        place = at % len(data)
        data[place : place + len(wrong)] = wrong
        path.write_bytes(bytes(data[: path.stat().st_size]))
        with suppress(InputError, KeyError):  # KeyError: the damage hit the name of the table or of a column
            assert all(len(row) == 2 for row in scanned(path))


def test_a_file_of_another_kind_is_not_plain(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"nothing")
    with Pages(path) as pages, pytest.raises(NotPlainError):
        pages.leaves(2)
