"""Integers of a large SQLite table, read from its pages.

SQLite returns values one by one: five million rows of eighteen take eight seconds of CPU time, here two.
The format (https://www.sqlite.org/fileformat2.html) is fixed; rows with equal headers are read as arrays.
Other content (text in the requested columns, rows over several pages, other kinds of pages) raises
NotPlainError, and the caller uses SQLite.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

INTERIOR, LEAF = 5, 13  # kinds of pages of a table
HEADER = 100  # bytes of the file's header
MOST_VARINT = 9
# Bytes of a value by its serial type; those from 12 on are texts and blobs.
SIZES = np.array(
    [0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0, *((kind - 12) // 2 for kind in range(12, 128))], np.int16
)
INTEGERS = (0, 1, 2, 3, 4, 5, 6, 8, 9)  # serial types: NULL, widths 1 to 8, the constants 0 and 1
ONE = 9
PADDING = 8192  # after the last page: more than any header and row read together


class NotPlainError(Exception):
    """A table or file that must be read by SQLite itself."""


class Pages:
    """The pages of an SQLite file, which is not changed while it is read; to be closed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        head = os.pread(self._file, HEADER, 0)
        size = int.from_bytes(head[16:18], "big")
        self.size = 65536 if size == 1 else size
        self.count = os.fstat(self._file).st_size // max(1, self.size)
        self.plain = len(head) == HEADER and self.size >= 512 and not self.size & (self.size - 1)
        self.usable = self.size - head[20] if self.plain else 0

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def leaves(self, root: int) -> Any:
        """Numbers (from 0) of the pages that hold a table's rows, in the order of the rows."""
        level = np.array([root - 1], np.int64)
        seen = 0
        while self.plain and level.min() > 0 and level.max() < self.count and seen <= self.count:
            if self.read(level[:1])[0, 0] == LEAF:  # all lie equally deep
                return level
            seen += len(level)
            level = np.concatenate([self._children(page) for page in level.tolist()])
        raise NotPlainError

    def read(self, numbers: Any) -> Any:
        """Pages as rows of bytes."""
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
        found = b"".join(
            os.pread(self._file, len(run) * self.size, int(run[0]) * self.size) for run in runs if len(run)
        )
        if len(found) != len(numbers) * self.size:
            raise NotPlainError
        return np.frombuffer(found, np.uint8).reshape(len(numbers), self.size)

    def columns(self, leaves: Any, wanted: Sequence[int]) -> list[tuple[Any, Any]]:
        """Values (int64) and NULLs of the rows on some pages, of columns by their places in the table."""
        return _values(self.read(leaves), self.usable, wanted)

    def first_row(self, leaf: int) -> int:
        """The number of the first row on a page."""
        data = self.read(np.array([leaf]))[0].tobytes()
        at = int.from_bytes(data[8:10], "big")
        for _ in range(2):  # after the row's length
            number, at = _varint(data, at)
        return number

    def _children(self, page: int) -> Any:
        data = self.read(np.array([page]))[0]
        count = int(data[3]) << 8 | int(data[4])
        pointers = data[12 : 12 + 2 * count].reshape(-1, 2).astype(np.int64)
        cells = pointers[:, 0] << 8 | pointers[:, 1]
        if data[0] != INTERIOR or len(cells) != count or (count and cells.max() > self.size - 4):
            raise NotPlainError
        places = np.append(cells, 8)[:, None] + np.arange(4)
        return data[places].astype(np.int64) @ np.array([1 << 24, 1 << 16, 1 << 8, 1]) - 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to nine bytes, and where it ends."""
    value = 0
    for step, byte in enumerate(data[at : at + MOST_VARINT], 1):
        value = value << 8 | byte if step == MOST_VARINT else value << 7 | byte & 127
        if byte < 128 or step == MOST_VARINT:
            return (value ^ 1 << 63) - (1 << 63) if value >> 63 else value, at + step
    raise NotPlainError


def _values(pages: Any, usable: int, columns: Sequence[int]) -> list[tuple[Any, Any]]:
    """Values of the rows of some leaf pages [pages, size]."""
    size = pages.shape[1]
    flat = np.concatenate([pages.reshape(-1), np.zeros(PADDING, np.uint8)])
    counts = pages[:, 3].astype(np.int64) << 8 | pages[:, 4]
    if (pages[:, 0] != LEAF).any() or (8 + 2 * counts > size).any():
        raise NotPlainError
    page = np.repeat(np.arange(len(pages)) * size, counts)
    slot = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
    pointer = page + 8 + 2 * slot
    offset = flat[pointer].astype(np.int64) << 8 | flat[pointer + 1]
    if (offset >= size).any():
        raise NotPlainError
    at = page + offset
    payload, at = _short(flat, at)
    at = _behind(flat, at)  # the row's number
    if len(at) and ((payload > usable - 35).any() or (at + payload > page + size).any()):
        raise NotPlainError
    return _decoded(flat, at, payload, columns)


def _decoded(flat: Any, at: Any, payload: Any, columns: Sequence[int]) -> list[tuple[Any, Any]]:
    """Values of records that begin at `at`: a header of one serial type per column, then the values.

    Rows of the same header have their values at the same places, and so are copied and cut up together.
    """
    length, needed = flat[at].astype(np.int64), max(columns) + 1
    if not len(at):
        return [(np.empty(0, np.int64), np.empty(0, bool)) for _ in columns]
    if length.max() > 127 or length.min() <= needed or (length > payload).any():
        raise NotPlainError
    headers = pa.array(_windows(flat, needed)[at + 1].reshape(-1)).buffers()[1]
    binary = pa.FixedSizeBinaryArray.from_buffers(pa.binary(needed), len(at), [None, headers])
    alike = binary.dictionary_encode()
    code, found = (
        alike.indices.to_numpy(),
        [(np.empty(len(at), np.int64), np.empty(len(at), bool)) for _ in columns],
    )
    for number, header in enumerate(alike.dictionary.to_pylist()):
        rows = np.flatnonzero(code == number) if len(alike.dictionary) > 1 else slice(None)
        kinds = np.frombuffer(header, np.uint8)
        if kinds.max() > 127 or not np.isin(kinds[list(columns)], INTEGERS).all():
            raise NotPlainError
        ends = np.cumsum(SIZES[kinds], dtype=np.int64)
        if (length[rows] + ends[-1] > payload[rows]).any():
            raise NotPlainError
        body = np.ascontiguousarray(_windows(flat, int(ends[-1]) + 8)[at[rows] + length[rows]])
        for (values, nulls), column in zip(found, columns, strict=True):
            kind, width = int(kinds[column]), int(SIZES[kinds[column]])
            nulls[rows] = kind == 0
            if width:
                # Eight bytes from the start of the value; those after it are shifted out.
                begin = int(ends[column]) - width
                words = np.ndarray(len(body), ">i8", body.data, begin, (body.shape[1],))
                values[rows] = words.astype(np.int64) >> (64 - 8 * width)
            else:
                values[rows] = kind == ONE
    return found


def _windows(flat: Any, width: int) -> Any:
    """At every byte the `width` ones that begin there, without a copy."""
    return np.ndarray((len(flat) - width + 1, width), np.uint8, flat.data, strides=(1, 1))


def _short(flat: Any, at: Any) -> tuple[Any, Any]:
    """Numbers of one or two bytes, and where they end; longer ones belong to rows over several pages."""
    first, second = flat[at].astype(np.int64), flat[at + 1].astype(np.int64)
    long = first > 127
    if (long & (second > 127)).any():
        raise NotPlainError
    return np.where(long, (first & 127) << 7 | second, first), at + 1 + long


def _behind(flat: Any, at: Any) -> Any:
    """Where numbers of up to nine bytes end."""
    going = np.ones(len(at), bool)
    length = np.zeros(len(at), np.int64)
    for step in range(MOST_VARINT):
        length += going
        going &= flat[np.minimum(at + step, len(flat) - 1)] > 127
        if not going.any():
            break
    return at + length
