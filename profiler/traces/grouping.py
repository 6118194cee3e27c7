"""Grouping of identical rows: a number or a word per row, vectorised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def numbered(*columns: Any) -> Any:
    """A number per row, equal where all columns are; from 0, in order of first occurrence."""
    found = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes, distinct = encoded(column)
        if len(distinct) > 1:  # both factors are at most the number of rows: the product fits
            found, _ = encoded(found * len(distinct) + codes)
    return found


def encoded(values: Any) -> tuple[Any, Any]:
    """Each number's index among the distinct ones, and those in order of first occurrence.

    By hashing, which is faster than sorting for many rows with few distinct values.
    """
    whole = pa.array(np.asarray(values, np.int64)).dictionary_encode()
    return whole.indices.to_numpy().astype(np.int64), whole.dictionary.to_numpy()


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
