"""The interval of a median holds it as often as it says, and the limit is a check."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import pytest

from profiler.overhead import median_interval, overhead
from profiler.steps import Timed
from profiler.subject import Point
from roofline.run import Overhead, open_run

pytest.importorskip("torch")


def test_drift_between_pairs_is_no_overhead() -> None:
    """A machine that becomes ten times slower on the way changes no pair."""
    plain = [1.0 * 1.1**i for i in range(24)]
    found = overhead(Point("decode", 1, 1, 9), Timed(plain=plain, ranged=[1.02 * p for p in plain]))
    assert (found.fraction, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    assert found.pairs == 24


@pytest.mark.parametrize(("n", "first"), [(5, 1), (6, 1), (8, 1), (9, 2), (20, 6), (100, 40)])
def test_the_interval_begins_at_the_rank_of_the_tables(n: int, first: int) -> None:
    """Conover, Practical Nonparametric Statistics: 95 % limits of a median by the binomial."""
    low, high = median_interval(range(1, n + 1))
    assert (low, high) == (first, n + 1 - first)
    if n > 5:
        assert 2 * sum(comb(n, k) for k in range(first)) / 2**n <= 0.05


def test_the_interval_holds_the_median_of_a_skewed_distribution() -> None:
    draw, held = random.Random(1), 0
    for _ in range(1000):
        low, high = median_interval([draw.expovariate(1.0) for _ in range(16)])
        held += low <= 0.6931 <= high  # ln 2
    assert 940 <= held <= 995  # 97.9 % are promised by the binomial of 16


def test_a_torn_pair_is_left_out() -> None:
    """A run may be stopped between the two steps of a pair."""
    assert overhead(Point("decode", 1, 1, 9), Timed(plain=[1.0, 1.0], ranged=[1.1])).pairs == 1


SIZES = ("--device", "cpu", "--phase", "prefill", "--prompt", 16, "--repeats", 3, "--no-alone")


@pytest.mark.parametrize(("limit", "code"), [(0.03, 0), (0.01, 1)])
def test_the_limit_is_a_check(
    limit: float,
    code: int,
    small_llama: Path,
    brief: None,
    roofline: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(point: Point, timed: Timed) -> Overhead:
        return overhead(point, timed).replace(fraction=0.02, low=0.015, high=0.025)

    monkeypatch.setattr("profiler.record.overhead", cost)
    done = roofline("profile", small_llama, *SIZES, "--overhead", limit, "-o", tmp_path / "run")
    assert done.code == code, done.err
    (found,) = open_run(tmp_path / "run").head.overheads
    assert (found.fraction, found.pairs) == (0.02, 3)
    assert [word for word in done.out.split() if "." in word] == ["2.0", "1.5", "2.5"]
    assert ("ranges cost 2.0% of a step, above 1.0%" in done.err) == bool(code)


@pytest.mark.parametrize("limit", ["nan", "-0.1", "inf"])
def test_a_limit_that_is_none_is_refused(
    limit: str, small_llama: Path, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    done = roofline("profile", small_llama, *SIZES, "--overhead", limit, "-o", tmp_path / "run")
    assert done.code == 2
    assert "expected a fraction of a step, as 0.03" in done.err
    assert not (tmp_path / "run").exists()
