"""Repeats, budget and order of calls, on a clock that only the timed work moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from profiler import timing
from profiler.repeats import CALM, SPENT, Effort
from profiler.timing import SHORTEST_S, laps, measure, measure_replayed, stopwatch


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited = 0.0

    def __call__(self) -> float:
        return self.now + self.waited

    def worked_ns(self) -> int:
        return round(self.now * 1e9)

    def wall_ns(self) -> int:
        return round(self() * 1e9)

    def costs(
        self, seconds: float, log: list[str] | None = None, name: str = "call"
    ) -> Callable[[int], None]:
        """A callable of so many seconds that writes its name and number into the log."""

        def work(i: int) -> None:
            self.now += seconds
            if log is not None:
                log.append(f"{name} {i}")

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    ticks = {"perf_counter": made, "perf_counter_ns": made.wall_ns, "thread_time_ns": made.worked_ns}
    monkeypatch.setattr(timing, "time", SimpleNamespace(**ticks))
    return made


def test_the_stopwatch_of_a_cpu_tells_work_from_waiting(clock: Clock) -> None:
    def work() -> None:
        clock.costs(0.25)(0)
        clock.waited += 0.5

    assert laps("cpu")(work) == (0.25, 0.5)


def test_several_threads_are_timed_by_the_wall(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of one thread does not tell what the others do."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work() -> None:
        clock.costs(0.25)(0)
        clock.waited += 0.5

    assert laps("cpu")(work) == (0.75, 0.0)


def test_sleep_is_no_work() -> None:
    """On the real clocks: some of a nap of 50 ms is waiting, all of a busy loop of that length is work."""
    nap = laps("cpu")(lambda: time.sleep(0.05))
    assert nap.waited_s > 0
    assert nap.passed_s >= 0.05

    def loop() -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < 0.05:
            pass

    assert laps("cpu")(loop).work_s >= 0.05


def test_only_the_call_is_timed_not_what_runs_between(clock: Clock) -> None:
    found = measure(clock.costs(0.001), "cpu", Effort(7, 100), between=clock.costs(0.5))
    assert found.median_s == found.q25_s == found.q75_s == pytest.approx(0.001)
    assert found.repeats == 7


def test_something_runs_before_each_timed_call(clock: Clock) -> None:
    log: list[str] = []
    found = measure(clock.costs(0.001, log), "cpu", Effort(3), between=clock.costs(0.001, log, "between"))
    first, *rest = log
    assert first == "call 0"
    assert found.warm_ups == CALM + 1
    numbers = range(1, 1 + found.warm_ups + found.repeats)
    assert rest == [f"{name} {i}" for i in numbers for name in ("between", "call")]


@pytest.mark.parametrize("seconds", [1e-7, 3e-5, 1.9e-3, 2.1e-3, 0.4])
def test_short_calls_are_grouped_until_the_clock_can_tell(clock: Clock, seconds: float) -> None:
    log: list[str] = []
    found = measure(clock.costs(seconds, log), "cpu", Effort(5, 100))
    assert found.median_s == pytest.approx(seconds)
    assert found.repeats == 5
    assert log == [f"call {i}" for i in range(len(log))]  # buffers rotate without a jump
    assert len(log) * seconds >= 5 * SHORTEST_S


@pytest.mark.parametrize(
    ("budget_s", "warm_ups", "repeats"), [(0.0, 0, 3), (2.5, 1, 3), (7.5, 2, 6), (1000.0, 4, 9)]
)
def test_the_budget_ends_repeats_but_not_before_the_third(
    clock: Clock, budget_s: float, warm_ups: int, repeats: int
) -> None:
    """Calls of a second; a quarter of the budget may be spent on warming up."""
    found = measure(clock.costs(1.0), "cpu", Effort(9, budget_s), between=lambda _: None)
    assert (found.warm_ups, found.repeats) == (warm_ups, repeats)
    assert (found.ended == SPENT) == (budget_s < 1000)


def test_the_first_call_is_not_counted(clock: Clock) -> None:
    """It allocates and sets libraries up."""

    def slow_at_first(i: int) -> None:
        clock.now += 10.0 if i == 0 else 0.01

    found = measure(slow_at_first, "cpu", Effort(5, 100), between=lambda _: None)
    assert found.q75_s == pytest.approx(0.01)


@pytest.mark.gpu
def test_the_stopwatch_of_a_gpu_waits_for_the_device(cuda: str) -> None:
    """A product of 4096 x 4096 takes longer than its launch, and twice as many take twice as long."""
    import torch

    a = torch.randn(4096, 4096, device=cuda)
    seconds = stopwatch(cuda)
    seconds(lambda: a @ a)
    once, ten = seconds(lambda: a @ a), seconds(lambda: [a @ a for _ in range(10)])
    assert once > 2 * 4096**3 / 200e12  # no GPU multiplies fp32 at more than 200 TFLOP/s
    assert 5 < ten / once < 20


def test_repeats_end_once_the_median_is_known(clock: Clock) -> None:
    found = measure(clock.costs(0.003), "cpu", Effort(1000, 1e9, 0.01))
    assert found.repeats == 6  # no spread at all: the fewest that have an interval
    assert found.median_s == pytest.approx(0.003)


@pytest.mark.gpu
def test_replayed_calls_of_a_gpu_take_no_longer_than_launched_ones(cuda: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(256, 256, device=cuda)
    launched = measure(lambda _: x @ x, cuda)
    replayed = measure_replayed(lambda _: x @ x, cuda)
    assert 0 < replayed.median_s <= 1.2 * launched.median_s
