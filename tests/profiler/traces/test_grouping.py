"""Rows that are alike get one number, and words only where they have one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from profiler.traces.grouping import numbered, worded

PAIRS = st.lists(st.tuples(st.integers(-2, 3), st.integers(-(2**62), 2**62)), max_size=30)


@given(PAIRS)
def test_rows_share_a_number_exactly_where_all_columns_are_equal(rows: list[tuple[int, int]]) -> None:
    first, second = (np.array([row[i] for row in rows], np.int64) for i in range(2))
    found = numbered(first, second).tolist()
    assert len(set(zip(rows, found, strict=True))) == len(set(rows)) == len(set(found))
    assert sorted(set(found)) == list(range(len(set(rows))))


@given(st.lists(st.integers(-1, 3), max_size=30))
def test_a_code_becomes_its_word(codes: list[int]) -> None:
    words = ["gemm", None, "attention", "gemm"]
    column = worded(np.array(codes, np.int64), words)
    assert column.to_pylist() == [words[code] if code >= 0 else None for code in codes]
    assert len(set(column.dictionary.to_pylist())) == len(column.dictionary)
