"""Ranges around ranges: the quick way for whole threads says what the careful one says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.traces.nesting import _nested, _stacked, innermost, parents

Ranges = list[tuple[int, int, int]]  # thread, start, end


@st.composite
def nested(draw: st.DrawFn) -> Ranges:
    """Properly nested ranges of two threads: a random walk of beginnings and ends."""
    found: Ranges = []
    for thread in (3, 8):
        opened: list[int] = []
        for at, begin in enumerate(draw(st.lists(st.booleans(), max_size=40))):
            if begin:
                opened.append(10 * at)
            elif opened:
                found.append((thread, opened.pop(), 10 * at))
        found += [(thread, start, 1000 + 10 * at) for at, start in enumerate(reversed(opened))]
    return draw(st.permutations(found))


any_ranges = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9000), st.integers(0, 9000)), max_size=30)


def columns(ranges: Ranges) -> list[np.ndarray]:
    return list(np.array(ranges, dtype=np.int64).reshape(-1, 3).T)


@given(nested())
def test_nested_ranges_take_the_quick_way(ranges: Ranges) -> None:
    thread, start, end = columns(ranges)
    quick = _nested(thread, start, end)
    assert quick is not None
    assert quick.tolist() == _stacked(thread, start, end).tolist()
    for row, parent in enumerate(quick.tolist()):
        around = [r for r in range(len(ranges)) if r != row and thread[r] == thread[row]]
        around = [r for r in around if start[r] < start[row] and end[r] > end[row]]
        assert parent == max(around, key=lambda r: start[r], default=-1)


@given(any_ranges)
def test_either_way_gives_the_same(raw: Ranges) -> None:
    thread, start, end = columns([(t, min(a, b), max(a, b)) for t, a, b in raw])
    quick = _nested(thread, start, end)
    if quick is not None:
        assert quick.tolist() == _stacked(thread, start, end).tolist()


@pytest.mark.parametrize(("beyond_ns", "inside"), [(0, True), (1000, True), (1001, False)])
def test_an_end_that_exceeds_by_less_than_clocks_tell_is_the_same(beyond_ns: int, inside: bool) -> None:
    """Kineto rounds begin and duration to microseconds, each for itself."""
    thread, start, end = columns([(1, 0, 9000), (1, 4000, 9000 + beyond_ns)])
    assert parents(thread, start, end).tolist() == [-1, 0 if inside else -1]


@given(nested(), st.lists(st.integers(0, 220).map(lambda n: 5 * n), min_size=1, max_size=20))
def test_a_moment_belongs_to_the_latest_begun_that_is_open(ranges: Ranges, moments: list[int]) -> None:
    """Of moments at an end and between two: a call that begins with the end of a range is its last."""
    thread, start, end = columns(ranges)
    at = np.array(moments)
    found = innermost(thread, start, end, parents(thread, start, end), np.full(len(at), 3), at)
    for moment, row in zip(at.tolist(), found.tolist(), strict=True):
        opened = [r for r in range(len(ranges)) if thread[r] == 3 and start[r] <= moment <= end[r]]
        assert row == max(opened, key=lambda r: start[r], default=-1)
