"""A fit finds the constants that made the times, is scored on shapes it has not seen, and invents none."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs import Constants
from roofline.calibrate import HELD_OUT_EVERY, Measurement, Terms, fit, predicted_s

close = partial(pytest.approx, rel=1e-9, abs=0)  # times are far below the default absolute tolerance

GEMM = Terms(compute=True, memory=True)
STREAM = Terms(memory=True)


def constants(**values: float) -> Constants:
    return Constants(dtype="bf16", points=1, median_error=0.0, **values)  # type: ignore[arg-type]


def shapes(families: int = 12, each: int = 10, seed: int = 7) -> list[Measurement]:
    """Products from memory-bound to compute-bound, no times yet."""
    rng = random.Random(seed)
    rows = []
    for family in range(families):
        k, n = rng.choice([512, 1024, 4096]), rng.choice([256, 2048, 8192])
        for _ in range(each):
            m = int(2 ** rng.uniform(0, 13))
            size = 2 * (m * k + k * n + m * n)
            rows.append(Measurement(f"{k}x{n}#{family}", 2.0 * m * n * k, m * 1.0, size, m * n, 1.0))
    return rows


def timed(rows: list[Measurement], known: Constants, noise: float = 0.0, seed: int = 1) -> list[Measurement]:
    """The rows with the times that the constants give, each wrong by a log-normal factor."""
    rng = np.random.default_rng(seed)
    times = predicted_s(known, rows) * np.exp(noise * rng.standard_normal(len(rows)))
    return [replace(row, time_s=float(time)) for row, time in zip(rows, times, strict=True)]


KNOWN = constants(launch_s=4e-6, flop_per_s=200e12, byte_per_s=1.5e12, overlap=1.0)


def test_exact_times_give_back_the_constants() -> None:
    found = fit(timed(shapes(), KNOWN), "bf16", GEMM)
    assert found.launch_s == close(KNOWN.launch_s, rel=1e-6)
    assert found.flop_per_s == close(KNOWN.flop_per_s, rel=1e-6)
    assert found.byte_per_s == close(KNOWN.byte_per_s, rel=1e-6)
    assert found.overlap == 1
    assert found.median_error < 1e-9
    assert found.dtype == "bf16"


def test_times_that_add_up_are_told_from_times_that_overlap() -> None:
    known = constants(launch_s=4e-6, flop_per_s=200e12, byte_per_s=1.5e12, overlap=0.0)
    found = fit(timed(shapes(), known), "bf16", GEMM)
    assert found.overlap == 0
    assert found.flop_per_s == close(known.flop_per_s, rel=1e-6)
    assert found.byte_per_s == close(known.byte_per_s, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_moves_the_constants_little(seed: int) -> None:
    found = fit(timed(shapes(), KNOWN, noise=0.05, seed=seed), "bf16", GEMM)
    assert found.launch_s == close(KNOWN.launch_s, rel=0.1)
    assert found.flop_per_s == close(KNOWN.flop_per_s, rel=0.05)
    assert found.byte_per_s == close(KNOWN.byte_per_s, rel=0.1)
    # the median of |noise| at 5 % is 0.67 x 5 %
    assert 0.02 < found.median_error < 0.06


@pytest.mark.parametrize("factor", [5.0, 1 / 3])
def test_a_few_wild_times_do_not_decide(factor: float) -> None:
    """Another program on the device, or a timer that missed the end: every tenth time is far off."""
    rows = timed(shapes(), KNOWN)
    disturbed = [replace(r, time_s=r.time_s * (factor if i % 10 == 0 else 1)) for i, r in enumerate(rows)]
    found = fit(disturbed, "bf16", GEMM)
    assert found.flop_per_s == close(KNOWN.flop_per_s, rel=0.05)
    assert found.byte_per_s == close(KNOWN.byte_per_s, rel=0.05)
    assert found.launch_s == close(KNOWN.launch_s, rel=0.05)
    assert found.median_error < 0.05


def test_a_cache_is_found_at_its_size() -> None:
    known = constants(launch_s=2e-6, byte_per_s=1e12, cache_bytes=30e6, cached_byte_per_s=4e12)
    sizes = np.geomspace(2e5, 1e9, 60)
    rows = [Measurement(f"f{i % 10}", 0.0, 0.0, float(size), 1.0, 1.0) for i, size in enumerate(sizes)]
    found = fit(timed(rows, known), "bf16", Terms(memory=True, cached=True))
    assert found.byte_per_s == close(1e12, rel=1e-3)
    assert found.cached_byte_per_s == close(4e12, rel=1e-3)
    assert found.cache_bytes is not None
    assert 20e6 < found.cache_bytes < 45e6


def test_no_cache_is_claimed_where_there_is_none() -> None:
    known = constants(launch_s=2e-6, byte_per_s=1e12)
    rows = [
        Measurement(f"f{i % 10}", 0.0, 0.0, s, 1.0, 1.0) for i, s in enumerate(np.geomspace(2e5, 1e9, 60))
    ]
    found = fit(timed(rows, known), "bf16", Terms(memory=True, cached=True))
    bandwidths = {found.byte_per_s, found.cached_byte_per_s} - {None}
    assert all(rate == close(1e12, rel=1e-3) for rate in bandwidths)


def test_special_functions_and_outputs_have_terms_of_their_own() -> None:
    rng = random.Random(3)
    rows = []
    for i in range(80):
        special, size, outputs = (rng.uniform(1e6, 1e10) for _ in range(3))
        rows.append(Measurement(f"f{i % 9}", 0.0, special, size, outputs, 1.0))
    known = constants(launch_s=1e-6, special_op_per_s=2e12, byte_per_s=1e12, output_s=3e-12, overlap=0.0)
    found = fit(timed(rows, known), "bf16", Terms(compute=True, special=True, outputs=True))
    assert found.special_op_per_s == close(2e12, rel=1e-3)
    assert found.output_s == close(3e-12, rel=1e-3)
    assert found.byte_per_s == close(1e12, rel=1e-3)
    assert found.flop_per_s is None


def test_whole_families_are_held_out() -> None:
    """Every fourth family scores the fit and does not move it."""
    rows = timed(shapes(families=12), KNOWN)
    families = sorted({row.family for row in rows})
    held = set(families[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    assert len(held) == len(families) // HELD_OUT_EVERY > 0
    base = fit(rows, "bf16", GEMM)
    assert base.points == sum(row.family not in held for row in rows)
    wrong = [replace(row, time_s=row.time_s * (2 if row.family in held else 1)) for row in rows]
    found = fit(wrong, "bf16", GEMM)
    assert found.replace(median_error=0.0) == base.replace(median_error=0.0)
    assert found.median_error == pytest.approx(0.5, abs=1e-6)  # predicted half of what was measured


def test_too_few_families_are_scored_on_themselves() -> None:
    rows = timed(shapes(families=3), KNOWN)
    found = fit(rows, "bf16", GEMM)
    assert found.points == len(rows)
    assert found.median_error < 1e-9


def test_the_order_of_the_measurements_does_not_matter() -> None:
    rows = timed(shapes(), KNOWN, noise=0.1)
    shuffled = random.Random(0).sample(rows, len(rows))
    found, again, other = (fit(measured, "bf16", GEMM) for measured in (rows, rows, shuffled))
    assert found == again
    for name in ("launch_s", "flop_per_s", "byte_per_s", "median_error"):
        assert getattr(found, name) == close(getattr(other, name), rel=1e-9)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.floats(1e-7, 1e-1), st.floats(1e3, 1e12), st.floats(1e3, 1e10)), min_size=5, max_size=25
    ),
    st.sampled_from([GEMM, STREAM, Terms(compute=True, memory=False), Terms(cached=True, outputs=True)]),
)
def test_whatever_was_measured_nothing_becomes_negative(
    points: list[tuple[float, float, float]], terms: Terms
) -> None:
    rows = [Measurement(f"f{i}", flops, 0.0, size, 1e4, t) for i, (t, flops, size) in enumerate(points)]
    found = fit(rows, "bf16", terms)
    assert found.launch_s >= 0
    assert found.output_s >= 0
    for rate in (found.flop_per_s, found.byte_per_s, found.cached_byte_per_s, found.special_op_per_s):
        assert rate is None or rate > 0
    assert (predicted_s(found, rows) >= 0).all()


def test_a_term_that_a_kind_does_not_have_is_not_fitted() -> None:
    found = fit(timed(shapes(), KNOWN), "bf16", STREAM)
    assert found.flop_per_s is None
    assert found.special_op_per_s is None
    assert found.cache_bytes is None
    assert found.output_s == 0
