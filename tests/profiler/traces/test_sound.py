"""Columns put together from parts are the parts, whatever their widths; and which events are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.traces import sound
from profiler.traces.sound import Losses, constant, is_constant, joined, sound_times

WIDTHS = (np.int32, np.int64)
PART = st.one_of(
    st.tuples(st.integers(-2, 2), st.integers(1, 9), st.sampled_from(WIDTHS)).map(
        lambda drawn: constant(drawn[2](drawn[0]), drawn[1])
    ),
    st.tuples(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9), st.sampled_from(WIDTHS)).map(
        lambda drawn: np.array(drawn[0], drawn[1])
    ),
)


@pytest.fixture(autouse=True)
def in_short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "BLOCK_ROWS", 4)


@given(st.lists(PART, max_size=8))
@settings(max_examples=200)
def test_a_column_is_its_parts_one_behind_the_other(parts: list[Any]) -> None:
    expected = [value for part in parts for value in part.tolist()]
    found = joined({"column": part} for part in parts).get("column", np.empty(0))
    assert found.tolist() == expected


def test_one_constant_stays_one() -> None:
    found = joined([{"device": constant(np.int32(3), rows)} for rows in (5, 1, 700)])["device"]
    assert len(found) == 706
    assert is_constant(found)


@pytest.mark.parametrize(
    ("hours", "ranges", "kept"),
    [(1, False, True), (2, False, False), (2, True, True), (7 * 24, True, True), (8 * 24, True, False)],
)
def test_a_kernel_runs_no_hour_and_a_range_no_week(hours: int, ranges: bool, kept: bool) -> None:
    second, losses = 10**9, Losses()
    columns = {
        "start_ns": np.array([5, 7]) * second,
        "end_ns": np.array([6, 7 + hours * 3600]) * second,
    }
    found = sound_times(columns, losses, ranges=ranges)
    assert len(found["start_ns"]) == 1 + kept
    assert [loss.count for loss in losses.found()] == ([] if kept else [1])
