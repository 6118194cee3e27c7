"""When repeats end and what they say, on streams of numbers: no clock, no device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from math import comb, inf
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.repeats import (
    ALL,
    CALM,
    FEWEST,
    KNOWN_FROM,
    MOST_WARM_UPS,
    NARROW,
    SPENT,
    Effort,
    median_interval,
    moved,
    outliers,
    sample,
    settled,
    uncertainty,
    warm_up,
)

SECONDS = st.floats(1e-6, 1e3)
STREAMS = st.lists(SECONDS, min_size=1, max_size=80)


def test_quartiles_of_repeats() -> None:
    found = sample([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.q25_s, found.median_s, found.q75_s, found.repeats) == (2.0, 3.0, 4.0, 5)
    assert found.spread == pytest.approx(2 / 3)


@given(STREAMS)
def test_a_sample_is_in_order_and_drops_nothing(times: list[float]) -> None:
    found = sample(times)
    assert min(times) <= found.low_s <= found.median_s <= found.high_s <= max(times)
    assert found.q25_s <= found.median_s <= found.q75_s
    assert (found.repeats, found.median_s) == (len(times), pytest.approx(median(times)))


@given(STREAMS, st.floats(1e-3, 1e3))
def test_other_units_say_the_same(times: list[float], unit: float) -> None:
    ours, theirs = sample(times), sample([unit * time for time in times])
    assert theirs.low_s == unit * ours.low_s
    assert theirs.high_s == unit * ours.high_s
    assert uncertainty([unit * time for time in times]) == pytest.approx(uncertainty(times))


# The median's interval


@pytest.mark.parametrize(("n", "first"), [(5, 1), (6, 1), (8, 1), (9, 2), (20, 6), (100, 40)])
def test_the_interval_begins_at_the_rank_of_the_tables(n: int, first: int) -> None:
    """Conover, Practical Nonparametric Statistics: 95 % limits of a median by the binomial."""
    low, high = median_interval(range(1, n + 1))
    assert (low, high) == (first, n + 1 - first)
    if n >= KNOWN_FROM:
        assert 2 * sum(comb(n, k) for k in range(first)) / 2**n <= 0.05


@pytest.mark.parametrize("n", [1001, 1200, 5000])
def test_many_values_have_the_interval_of_the_binomial(n: int) -> None:
    low, high = median_interval(range(1, n + 1))
    first = int(low)
    assert high == n + 1 - first
    outside = 2 * sum(comb(n, k) for k in range(first)) / 2**n
    assert 0.04 < outside <= 0.05


def test_the_interval_holds_the_median_of_a_skewed_distribution() -> None:
    draw, held = random.Random(1), 0
    for _ in range(1000):
        low, high = median_interval([draw.expovariate(1.0) for _ in range(16)])
        held += low <= 0.6931 <= high  # ln 2
    assert 940 <= held <= 995  # 97.9 % are promised by the binomial of 16


def test_few_values_do_not_tell_a_median() -> None:
    assert uncertainty([1.0] * (KNOWN_FROM - 1)) == inf
    assert uncertainty([1.0] * KNOWN_FROM) == 0


def test_four_times_the_repeats_halve_the_uncertainty() -> None:
    draw = random.Random(2)
    few, many = (
        median(uncertainty([draw.gauss(1, 0.05) for _ in range(n)]) for _ in range(50)) for n in (100, 400)
    )
    assert few == pytest.approx(2 * many, rel=0.2)


# Outliers


def test_a_repeat_far_outside_is_told_and_counts() -> None:
    calm = [1.0 + 0.001 * (i % 5) for i in range(20)]
    found = sample([*calm, 1000.0])
    assert found.outliers == (20,)
    assert (found.repeats, found.median_s) == (21, 1.002)


@given(st.lists(st.floats(1.0, 1.02), min_size=1, max_size=60))
def test_what_lies_within_two_percent_is_no_outlier(times: list[float]) -> None:
    """However little the others differ: a clock's resolution makes most of them equal."""
    assert outliers(times) == ()


@given(STREAMS)
def test_outliers_are_never_half_of_the_repeats(times: list[float]) -> None:
    assert len(outliers(times)) <= len(times) / 2


# Whether the machine was steady


@given(st.integers(0, 10_000))
def test_a_machine_that_became_slower_is_told_from_noise(seed: int) -> None:
    draw = random.Random(seed)
    before, after = ([draw.uniform(0.99, 1.01) * s for _ in range(20)] for s in (1.0, 1.1))
    assert moved([*before, *after]) == pytest.approx(0.1, abs=0.02)
    assert moved([*after, *before]) == pytest.approx(1 / 1.1 - 1, abs=0.02)


def test_noise_is_seldom_taken_for_a_change() -> None:
    draw = random.Random(3)
    told = sum(moved([draw.expovariate(1.0) for _ in range(64)]) != 0 for _ in range(500))
    assert told <= 0.02 * 500


# Warming up


def of(times: Iterator[float]) -> Callable[[], float]:
    return times.__next__


def test_calls_that_take_equally_long_are_warm_at_once() -> None:
    assert len(warm_up(of(repeat(2.0)))) == CALM + 1


@given(st.lists(st.floats(0.5, 0.97), min_size=1, max_size=30))
def test_warming_up_lasts_while_calls_become_faster(steps: list[float]) -> None:
    """Each call is 3 % faster than the last, or more, then none is."""
    falling = [1.0]
    for step in steps:
        falling.append(falling[-1] * step)
    made = warm_up(of(chain(falling, repeat(falling[-1]))))
    assert len(made) == len(falling) + CALM
    assert settled(made)


@given(st.integers(0, 10_000))
def test_waits_do_not_keep_a_step_from_being_warm(seed: int) -> None:
    """On a shared machine any call may take longer than it needs."""
    draw = random.Random(seed)
    assert len(warm_up(lambda: 1.0 + draw.expovariate(2.0))) < MOST_WARM_UPS


def test_what_never_settles_is_begun_all_the_same() -> None:
    assert len(warm_up(of(0.9**i for i in count()))) == MOST_WARM_UPS


def test_a_late_warm_up_is_one_call() -> None:
    assert warm_up(of(repeat(1.0)), lambda: True) == [1.0]


def test_processes_end_a_warm_up_together() -> None:
    """One that has settled goes on until the others have."""
    others = iter([False] * 9 + [True])
    assert len(warm_up(of(repeat(1.0)), together=lambda over: next(others) and over)) == 10


# When repeats end


def repeats_made(effort: Effort, times: Iterator[float]) -> tuple[int, str]:
    """How many repeats an effort makes and why it ends; each costs the budget as long as it takes."""
    made: list[float] = []
    ended = ""
    while not ended:
        made.append(next(times))
        ended = effort.ended(made, sum(made))
    return len(made), ended


@given(STREAMS, st.integers(1, 40), st.floats(0, 1e4), st.floats(0, 0.5))
def test_an_effort_keeps_to_its_limits(
    times: list[float], most: int, budget_s: float, precision: float
) -> None:
    effort, stream = Effort(most, budget_s, precision), chain(times, repeat(times[-1]))
    made, ended = repeats_made(effort, stream)
    seen = [*times, *repeat(times[-1], most)][:made]
    assert min(FEWEST, most) <= made <= most
    assert (ended == ALL) == (made == most)
    if ended == NARROW:
        assert made >= KNOWN_FROM
        assert uncertainty(seen) < precision
    if ended == SPENT:
        assert sum(seen) >= budget_s
        assert made == FEWEST or sum(seen[:-1]) < budget_s


def test_a_quiet_machine_is_soon_known_and_a_noisy_one_never() -> None:
    draw, effort = random.Random(4), Effort(200, precision=0.01)
    made, ended = repeats_made(effort, (draw.gauss(1, 0.002) for _ in count()))
    assert (made <= 9, ended) == (True, NARROW)
    assert repeats_made(effort, (draw.gauss(1, 0.5) for _ in count())) == (200, ALL)


def test_equal_repeats_do_not_end_an_effort_that_asks_for_all() -> None:
    assert repeats_made(Effort(12), repeat(1.0)) == (12, ALL)


def test_neighbours_of_one_round_count_once() -> None:
    """They have a minute of the machine in common, and say little more than one of them."""
    effort = Effort(16, precision=0.01)
    assert effort.ended([1.0] * 20, 0.0, rounds=5) == ""
    assert effort.ended([1.0] * 24, 0.0, rounds=6) == NARROW
