"""Rows that are alike get one number, and words only where they have one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from profiler.traces.grouping import groups, numbered, worded

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


@given(st.lists(st.tuples(*[st.integers(-1, 2)] * 4), max_size=30))
def test_groups_are_the_chosen_rows_by_equal_keys_in_order(rows: list[tuple[int, ...]]) -> None:
    """Of (chosen, first key, second key, time): ties in time stay in the order of the rows."""
    chosen, first, second, time = np.array(rows, np.int64).reshape(-1, 4).T
    found = [
        [(*rows[at][1:], at) for at in group]
        for group in groups(np.flatnonzero(chosen > 0), [first, second], time)
    ]
    together = [entry for group in found for entry in group]
    assert together == sorted((*row[1:], at) for at, row in enumerate(rows) if row[0] > 0)
    assert all(len({entry[:2] for entry in group}) == 1 for group in found)
    assert len(found) == len({entry[:2] for entry in together})
