"""What ranges cost is told by pairs of neighbouring steps, and the limit is a check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.forward import Point
from profiler.steps import Timed, overhead
from roofline.run import open_run
from roofline.run_head import Overhead

pytest.importorskip("torch")


def test_drift_between_pairs_is_no_overhead() -> None:
    """A machine that becomes ten times slower on the way changes no pair."""
    plain = [1.0 * 1.1**i for i in range(24)]
    found = overhead(Point("decode", 1, 1, 9), Timed(plain=plain, ranged=[1.02 * p for p in plain]))
    assert (found.fraction, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    assert found.pairs == 24


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

    monkeypatch.setattr("profiler.record_rows.overhead", cost)
    done = roofline("profile", small_llama, *SIZES, "--overhead", limit, "-o", tmp_path / "run")
    assert done.code == code, done.err
    (found,) = open_run(tmp_path / "run").head.overheads
    assert (found.fraction, found.pairs) == (0.02, 3)
    assert [word for word in done.out.split() if "." in word] == ["2.0", "1.5", "2.5"]
    assert ("ranges cost 2.0 % of a step, above 1.0 %" in done.err) == bool(code)


@pytest.mark.parametrize("limit", ["nan", "-0.1", "inf"])
def test_a_limit_that_is_none_is_refused(
    limit: str, small_llama: Path, roofline: Callable[..., Any], tmp_path: Path
) -> None:
    done = roofline("profile", small_llama, *SIZES, "--overhead", limit, "-o", tmp_path / "run")
    assert done.code == 2
    assert "expected a fraction of a step, as 0.03" in done.err
    assert not (tmp_path / "run").exists()
