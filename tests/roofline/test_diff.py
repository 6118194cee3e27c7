"""Comparisons whose answers are known on paper."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofline.diff import SIDE, diff, per_execution, same_scale


def side(**rows: tuple[Any, ...]) -> pd.DataFrame:
    """name = (count, seconds[, kernels[, shapes[, spread]]])."""
    full = []
    for name, (count, time_s, *more) in rows.items():
        kernels, shapes, spread = [*more, *["", "", float("nan")][len(more) :]]
        words = frozenset(kernels.split()), frozenset(shapes.split())
        full.append(("prefill", name, -1, count, time_s, *words, spread))
    return pd.DataFrame(full, columns=SIDE)


def row(found: Any, name: str) -> dict[str, Any]:
    (only,) = found.rows[found.rows["name"] == name].to_dict("records")
    return only


def test_what_changed_is_named() -> None:
    before = side(gemm=(24, 1.0, "cutlass", "4x4"), norm=(24, 0.5, "norm"), old=(1, 0.25))
    after = side(gemm=(48, 1.5, "nvjet cutlass", "8x4"), norm=(24, 0.5, "norm"), new=(1, 0.125))
    found = diff(before, after)
    gemm = row(found, "gemm")
    assert (gemm["change_s"], gemm["ratio"]) == (0.5, 0.5)
    assert (gemm["kernels_gone"], gemm["kernels_new"]) == ([], ["nvjet"])
    assert (gemm["shapes_gone"], gemm["shapes_new"]) == (["4x4"], ["8x4"])
    assert gemm["why"] == "24 -> 48 times, other kernels, other shapes"
    assert row(found, "norm")["why"] == ""
    assert (row(found, "old")["side"], row(found, "new")["side"]) == ("gone", "new")
    assert list(found.rows["name"])[:3] == ["gemm", "old", "new"]
    assert (found.total_a_s, found.total_b_s) == (1.75, 2.125)


@pytest.mark.parametrize(("above", "fails"), [(0.05, True), (0.101, False), (0.2, False)])
def test_the_whole_decides(above: float, fails: bool) -> None:
    found = diff(side(a=(1, 1.0), b=(1, 9.0)), side(a=(1, 2.0), b=(1, 9.0)))  # 10 % slower, by one operator
    assert bool(found.regressions(above)) is fails
    assert found.regressions(0.5, each=True) == ["a: +100.0 %"]


def test_an_operator_alone_must_matter_and_leave_its_spread() -> None:
    """A thousandth of the time does not, a fiftieth does; the sum of both spreads is no regression."""
    before = side(main=(1, 100.0), tiny=(1, 0.1), small=(1, 2.0), noisy=(1, 5.0, "", "", 0.5))
    after = side(main=(1, 100.0), tiny=(1, 0.2), small=(1, 3.0), noisy=(1, 6.0, "", "", 0.5))
    assert diff(before, after).regressions(0.05, each=True) == ["small: +50.0 %"]
    clear = diff(before, after.assign(spread_s=after["spread_s"] * 0.9)).regressions(0.05, each=True)
    assert sorted(clear) == ["noisy: +20.0 %", "small: +50.0 %"]


def test_a_phase_alone_fails() -> None:
    both = [side(gemm=(1, 10.0)), side(gemm=(1, 1.0)).assign(phase="decode")]
    slower = [both[0], both[1].assign(time_s=1.2)]
    found = diff(pd.concat(both), pd.concat(slower))
    assert found.regressions(0.05) == ["phase decode: +20.0 %"]


def test_a_longer_recording_is_no_regression() -> None:
    before, after = side(a=(10, 1.0), b=(20, 2.0)), side(a=(30, 3.0), b=(60, 6.3))
    assert same_scale(diff(before, after)) == 3
    assert same_scale(diff(before, before)) is None
    found = diff(before, per_execution(after, 3))
    assert row(found, "b")["ratio"] == pytest.approx(0.05)
    assert row(found, "a")["change_s"] == pytest.approx(0)
    assert (row(found, "b")["count_b"], row(found, "b")["why"]) == (20, "")  # as many, of that length


@pytest.mark.parametrize("count", [10, 33])
def test_what_half_of_the_time_executes_otherwise_is_no_longer_recording(count: int) -> None:
    before, after = (
        side(a=(10, 1.0), b=(10, 1.0), c=(10, 2.0)),
        side(a=(30, 3.0), b=(30, 3.0), c=(count, 2.0)),
    )
    assert same_scale(diff(before, after)) is None


times = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.integers(1, 9), st.floats(1e-6, 10)), min_size=1
)


@given(times, times)
def test_changes_add_up(one: dict[str, Any], other: dict[str, Any]) -> None:
    found = diff(side(**one), side(**other))
    assert found.rows["change_s"].sum() == pytest.approx(found.total_b_s - found.total_a_s)
    assert len(found.rows) == len(set(one) | set(other))
    assert diff(side(**one), side(**one)).regressions(0.0, each=True) == []
