"""Grouping of identical rows: a number or a word per row, vectorised, and columns of one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

PIECE = 1 << 16  # rows of a column of one value that share memory


def numbered(*columns: Any) -> Any:
    """A number per row, equal where all columns are; from 0, in order of first occurrence."""
    found, several = np.zeros(len(columns[0]), np.int32), False
    for column in columns:
        codes, distinct = encoded(column)
        if len(distinct) > 1:  # both factors are at most the number of rows: the product fits
            found = encoded(found.astype(np.int64) * len(distinct) + codes)[0] if several else codes
            several = True
    return found


def encoded(values: Any) -> tuple[Any, Any]:
    """Each number's index (int32) among the distinct ones, and those in order of first occurrence.

    By hashing, which is faster than sorting for many rows with few distinct values.
    """
    whole = pa.array(np.asarray(values)).dictionary_encode()
    return whole.indices.to_numpy(), whole.dictionary.to_numpy()


def groups(rows: Any, keys: Sequence[Any], within: Any) -> list[Any]:
    """Some `rows` by equal keys: groups in order of the keys, the rows of each in order of `within`."""
    rows = rows[np.lexsort((within[rows], *(key[rows] for key in reversed(keys))))]
    begins = np.zeros(len(rows), bool)
    for key in keys:
        begins[1:] |= key[rows[1:]] != key[rows[:-1]]
    return np.split(rows, np.flatnonzero(begins)) if len(rows) else []


def worded(codes: Any, words: Sequence[str | None]) -> pa.DictionaryArray:
    """`words[code]` of each row as a column; null for None and for a code of -1. Only used words are kept."""
    place, distinct = encoded(codes)
    texts = [words[code] if code >= 0 else None for code in distinct.tolist()]
    kept = {text: at for at, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    to = np.array([-1 if text is None else kept[text] for text in texts], np.int32)
    indices = to[place]
    return pa.DictionaryArray.from_arrays(
        pa.array(indices, pa.int32(), mask=indices < 0), pa.array(list(kept), pa.string())
    )


def shared(kind: pa.DataType, values: Any) -> pa.ChunkedArray:
    """A column of numbers or words; if all are the same number or null, in pieces that share their memory."""
    if isinstance(values, pa.Array):
        nothing = 0 < len(values) == values.null_count
        return same(kind, -1, len(values), values.dictionary) if nothing else pa.chunked_array([values])
    if len(values) and values.min() == values.max():
        return same(kind, values[0], len(values))
    return pa.chunked_array([pa.array(values, kind)])


def same(kind: pa.DataType, value: Any, rows: int, words: pa.Array | None = None) -> pa.ChunkedArray:
    """One number, or the word of one code (-1: null), for every row."""
    some = min(rows, PIECE)
    if pa.types.is_dictionary(kind):
        codes = pa.array(np.full(some, value, np.int32), mask=np.full(some, value < 0))
        values = pa.DictionaryArray.from_arrays(codes, words)
    else:
        values = pa.array(np.full(some, value, kind.to_pandas_dtype()), kind)
    pieces = [values.slice(0, min(PIECE, rows - at)) for at in range(0, rows, PIECE)]
    return pa.chunked_array(pieces, kind)
