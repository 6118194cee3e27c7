"""Read an untrusted SQLite file into Arrow batches: nothing in it is executed, nothing is written.

Large tables are scanned through ADBC by a thread per part of the rows: SQLite decodes rows without the GIL
and without Python objects (the `sqlite3` module takes ten times as long).
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from profiler.traces.pages import NotPlainError, Pages
from specfiles.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"SQLite format 3\0"
BATCH_ROWS = 1 << 13  # a batch fits in the cache
PART_ROWS = 1 << 17  # fewer are not worth a query of their own
MOST_PARTS = 1 << 8  # rows may be numbered up to 2**63
LARGE_BYTES = 1 << 26  # in larger files, tables of integers are read from their pages
PIECE_PAGES = 1 << 8  # read at once: more take more memory and hardly less time
# Views and triggers cannot call functions with side effects; corrupt pages raise errors.
PRAGMAS = ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON")
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # messages may quote names that are not UTF-8
T = TypeVar("T")


class Database:
    """The plain tables of an SQLite file, without views, virtual tables and generated columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, dict[str, str]] = {}  # by table: column and its declared type
        self.views: set[str] = set()  # their SQL is not run
        _refuse_unfinished(path)
        try:
            with closing(self._small()) as connection:
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
                ):
                    info = connection.execute(f"PRAGMA table_info({quoted(name)})")
                    self.columns[name] = {row[1]: row[2] for row in info}
                views = connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")
                self.views = {name for (name,) in views}
        except UNREADABLE as error:
            raise self._damaged(error) from None

    def has(self, table: str, *columns: str) -> bool:
        """Whether the table exists with these columns."""
        return table in self.columns and all(column in self.columns[table] for column in columns)

    def rows(self, table: str, *columns: str, most: int = 100_000) -> list[tuple[Any, ...]]:
        """A small table's rows, with lenient text decoding; None for missing columns."""
        if table not in self.columns:
            return []
        asked = ", ".join(quoted(c) if self.has(table, c) else "NULL" for c in columns)
        return self._told(f"SELECT {asked} FROM {quoted(table)} LIMIT {most}")

    def _told(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        try:
            with closing(self._small()) as connection:
                return connection.execute(sql, values).fetchall()
        except UNREADABLE as error:
            raise self._damaged(error) from None

    def scan(self, table: str, asked: dict[str, str], shape: Callable[[pa.RecordBatch], T]) -> Iterator[T]:
        """Every row of `asked` (column name -> SQL) in the order of the file, batch by batch.

        Batches are reshaped a few ahead of the consumer. Raises InputError where the file is damaged or a
        column changes its type between rows.
        """
        listed = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in asked.items())
        sql = f"SELECT {listed} FROM {quoted(table)}"
        with Pages(self.path) as pages:
            blocks = self._page_blocks(pages, table, asked, sql, shape)
            if not blocks:
                parts = [f"{sql} {which}" for which in self._parts(table)]
                blocks = [partial(self._read, part, shape) for part in parts]
            for batches in _in_turn(blocks):
                yield from batches

    def table(self, name: str, asked: dict[str, str], schema: pa.Schema) -> pa.Table:
        """The same as one table; ArrowInvalid where a value is not of its type."""
        import pyarrow as pa

        parts = self.scan(name, asked, lambda batch: pa.Table.from_batches([batch]).cast(schema))
        return pa.concat_tables([schema.empty_table(), *parts])

    def _plain_columns(self, table: str, asked: dict[str, str]) -> dict[str, int]:
        """Positions in the table's rows by name; none for expressions or where rows are not plain."""
        info = self._told(f"PRAGMA table_xinfo({quoted(table)})")
        places = {quoted(row[1]): row[0] for row in info}
        if any(row[5] or row[6] for row in info) or not all(sql in places for sql in asked.values()):
            return {}  # keys stand elsewhere than in the row, generated columns nowhere
        return {name: places[sql] for name, sql in asked.items()}

    def _page_blocks(
        self, pages: Pages, table: str, asked: dict[str, str], sql: str, shape: Callable[[pa.RecordBatch], T]
    ) -> list[Callable[[], list[T]]]:
        """Readers of a table's pieces from its pages; none where SQLite must read it all.

        Rows on pages that are not plain are read through SQLite by rowid.
        """
        import pyarrow as pa

        if self.path.stat().st_size < LARGE_BYTES or not (columns := self._plain_columns(table, asked)):
            return []
        ((root,),) = self._told("SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?", table)
        try:
            leaves = pages.leaves(root)
            pieces = [leaves[at : at + PIECE_PAGES] for at in range(0, len(leaves), PIECE_PAGES)]
            first = [pages.first_row(int(piece[0])) for piece in pieces]
        except NotPlainError:
            return []

        def block(piece: Any, low: int | None, high: int | None) -> list[T]:
            try:
                found = pages.columns(piece, list(columns.values()))
            except NotPlainError:
                which = [f"rowid >= {low}"] * (low is not None) + [f"rowid < {high}"] * (high is not None)
                return self._read(f"{sql} WHERE {' AND '.join(which) or 'TRUE'}", shape)
            arrays = [pa.array(values, mask=nulls if nulls.any() else None) for values, nulls in found]
            return [shape(pa.RecordBatch.from_arrays(arrays, names=list(columns)))]

        bounds = pairwise([None, *first[1:], None])
        return [partial(block, piece, *bound) for piece, bound in zip(pieces, bounds, strict=True)]

    def _parts(self, table: str) -> Sequence[str]:
        """Conditions that partition a table's rows; a single part for tables without rowid."""
        if "rowid" in (name.casefold() for name in self.columns[table]):
            return [""]
        try:
            with closing(self._small()) as connection:
                low, high = connection.execute(
                    f"SELECT min(rowid), max(rowid) FROM {quoted(table)}"
                ).fetchone()
        except sqlite3.OperationalError as error:
            if "no such column" in str(error):  # a table WITHOUT ROWID
                return [""]
            raise self._damaged(error) from None
        except UNREADABLE as error:
            raise self._damaged(error) from None
        if low is None:
            return ["LIMIT 0"]
        count = max(1, min(MOST_PARTS, (high - low) // PART_ROWS))
        edges = [low + (high + 1 - low) * i // count for i in range(count + 1)]
        return [f"WHERE rowid BETWEEN {start} AND {end - 1}" for start, end in pairwise(edges)]

    def _read(self, sql: str, shape: Callable[[pa.RecordBatch], T]) -> list[T]:
        import pyarrow as pa
        from adbc_driver_manager import AdbcConnection, AdbcStatement, Error  # its dbapi imports pandas
        from adbc_driver_sqlite import connect

        try:
            with connect(self._uri()) as file, AdbcConnection(file) as opened, AdbcStatement(opened) as asked:

                def answer(question: str) -> pa.RecordBatchReader:
                    asked.set_sql_query(question)
                    return pa.RecordBatchReader.from_stream(asked.execute_query()[0])

                for pragma in PRAGMAS:
                    answer(f"PRAGMA {pragma}").close()
                asked.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)})
                with answer(sql) as batches:
                    return [shape(batch) for batch in batches if batch.num_rows]
        except (Error, pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _small(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri(), uri=True)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _uri(self) -> str:
        # immutable: SQLite looks for no journal and writes nothing.
        return f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"

    def _damaged(self, error: Exception) -> InputError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return InputError(f"{self.path}: the SQLite file cannot be read ({reason[:200]}); export it again.")


def _in_turn(blocks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """The result of each block in order, with bounded read-ahead by threads."""
    threads = max(1, min(os.cpu_count() or 1, 4))
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            waiting.append(pool.submit(block))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def quoted(name: str) -> str:
    """A name of a table or column for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _refuse_unfinished(path: Path) -> None:
    """InputError where a journal beside the file holds pending changes."""
    for ending in ("-wal", "-journal"):
        beside = path.with_name(path.name + ending)
        if beside.exists() and beside.stat().st_size:
            raise InputError(
                f"{path}: is still being written ({beside.name} is beside it); wait for its end."
            )
