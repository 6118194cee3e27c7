"""What ranges cost is told by pairs of neighbouring steps, and the limit is a check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.forward import Point
from profiler.noting import limit_words
from profiler.steps import Timed, decided, overhead
from roofline.run import open_run
from roofline.run_head import Overhead

pytest.importorskip("torch")


def test_drift_between_pairs_is_no_overhead() -> None:
    """A machine that becomes ten times slower on the way changes no pair."""
    plain = [1.0 * 1.1**i for i in range(24)]
    found = overhead(Point("decode", 1, 1, 9), Timed(plain=plain, ranged=[1.02 * p for p in plain]))
    assert (found.fraction, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    assert found.pairs == 24


def test_a_limit_within_the_interval_is_not_decided() -> None:
    plain, ranged = [1.0] * 24, [1.01, 1.03] * 12
    timed = Timed(plain=plain, ranged=ranged)
    assert decided(timed, None)
    assert decided(timed, 0.035)
    assert decided(timed, 0.005)
    assert not decided(timed, 0.02)


def test_a_torn_pair_is_left_out() -> None:
    """A run may be stopped between the two steps of a pair."""
    assert overhead(Point("decode", 1, 1, 9), Timed(plain=[1.0, 1.0], ranged=[1.1])).pairs == 1


SIZE = vars(Point("decode", 1, 1, 9))
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

    monkeypatch.setattr("profiler.record_rows.overhead", cost)
    done = roofline("profile", small_llama, *SIZES, "--overhead", limit, "-o", tmp_path / "run")
    assert done.code == code, done.err
    (found,) = open_run(tmp_path / "run").head.overheads
    assert (found.fraction, found.pairs) == (0.02, 3)
    assert [word for word in done.out.split() if "." in word] == ["2.0", "1.5", "2.5"]
    side = "above 1.0" if code else "within 3.0"
    assert f"ranges cost 2.0 % of a step, {side} % (+1.5 % to +2.5 %, of all 3)" in done.err


@pytest.mark.parametrize(("limit", "low", "side"), [(0.01, 0.005, "above"), (0.03, 0.015, "within")])
def test_repeats_that_vary_by_more_than_the_limit_are_said_to(limit: float, low: float, side: str) -> None:
    """On either side of it, and also where the point that varies is not the one that costs the most."""
    sure = Overhead(**SIZE, fraction=0.02, low=low, high=0.025, pairs=40)
    vague = Overhead(**{**SIZE, "kv_len": 10}, fraction=-0.01, low=-0.2, high=0.1, pairs=40)
    told = limit_words([sure, vague], limit)
    assert (
        f"cost 2.0 % of a step, {side} {100 * limit:.1f} %, which is not certain: in decode-1x1of10" in told
    )
    assert "−20.0 % to +10.0 % at 95 %" in told


@pytest.mark.parametrize("limit", ["nan", "-0.1", "inf"])
def test_a_limit_that_is_none_is_refused(
    limit: str, small_llama: Path, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    done = roofline("profile", small_llama, *SIZES, "--overhead", limit, "-o", tmp_path / "run")
    assert done.code == 2
    assert "expected a fraction of a step, as 0.03" in done.err
    assert not (tmp_path / "run").exists()
