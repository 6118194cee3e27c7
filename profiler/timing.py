"""Time a callable on a CPU or a CUDA device: warmed up, and repeated as an effort allows."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from profiler.capturing import capturing
from profiler.environment import shares_steps
from profiler.interrupts import raise_swallowed
from profiler.repeats import Effort, Sample, sample, warm_up

EVENT_S = 5e-7  # resolution of CUDA's events (cudaEventElapsedTime in the reference of its runtime)
SHORTEST_S = 2e-3  # minimum length of a repeat, against the clock's resolution
MOST_REPLAYED = 200  # calls in one graph: each keeps its results, and capturing takes time
WARM_UP_SHARE = 0.25  # of the budget
EFFORT = Effort(repeats=9, budget_s=2.0)
BRIEFLY = Effort(repeats=3, budget_s=0.0)  # where whole passes are the repeats


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable the cyclic garbage collector in the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Lap(NamedTuple):
    """One timed call: seconds of work, and of waiting for a processor."""

    work_s: float
    waited_s: float = 0.0

    @property
    def passed_s(self) -> float:
        """Wall-clock time."""
        return self.work_s + self.waited_s


def host_clock() -> Callable[[], int]:
    """Nanoseconds of work on the host: the thread's CPU time, without waits for a processor.

    On a shared machine a step may wait longer than it runs, independently of its operators. The wall clock is
    used where torch has several threads, which no thread's clock covers, and where several processes run a
    step together, as waiting for each other is part of it.
    """
    import torch

    one = torch.get_num_threads() == 1 and not shares_steps()
    return time.thread_time_ns if one else time.perf_counter_ns


def laps(device: str) -> Callable[[Callable[[], Any]], Lap]:
    """A function that times a callable on a device, separating work and waiting."""
    if not device.startswith("cuda"):
        return partial(_host_lap, host_clock())
    import torch

    def cuda_lap(work: Callable[[], Any]) -> Lap:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return Lap(between_events(begin, end))

    return cuda_lap


def between_events(begin: Any, end: Any) -> float:
    """Seconds between two CUDA events: never none, as times are divided by each other."""
    return max(EVENT_S, float(begin.elapsed_time(end)) * 1e-3)


def stopwatch(device: str) -> Callable[[Callable[[], Any]], float]:
    """A function that returns a callable's seconds of work on a device."""
    lap = laps(device)
    return lambda work: lap(work).work_s


def _host_lap(clock: Callable[[], int], work: Callable[[], Any]) -> Lap:
    wall, begin = time.perf_counter_ns(), clock()
    work()
    worked = clock() - begin
    passed = time.perf_counter_ns() - wall
    return Lap(worked * 1e-9, max(0, passed - worked) * 1e-9 if clock is time.thread_time_ns else 0.0)


def measure(
    call: Callable[[int], Any],
    device: str,
    effort: Effort = EFFORT,
    *,
    between: Callable[[int], Any] | None = None,
) -> Sample:
    """Time `call(i)`, where i counts up so that the callee can rotate its buffers.

    With `between`, each call is timed alone, after a call of `between` that leaves the caches as in a model.
    Without, calls are grouped until a repeat lasts SHORTEST_S.
    """
    seconds = stopwatch(device)
    calls = itertools.count()
    seconds(lambda: call(next(calls)))  # first touch: allocation, library set-up
    if between is None:
        size = _group_size(seconds, call, calls)

    def once() -> float:
        if between is None:
            return seconds(partial(_repeat, call, calls, size)) / size
        i = next(calls)
        between(i)
        return seconds(partial(call, i))

    return _repeated(once, effort)


def measure_replayed(
    call: Callable[[int], Any], device: str, effort: Effort = EFFORT, *, cold_bytes: float = 0.0
) -> Sample:
    """Time `call(i)` on a CUDA device by replaying a graph of many calls, without host launch times.

    The device is kept busy before each timed replay, so that its launch is hidden: by a fill of `cold_bytes`,
    which evicts the calls' memory from the cache, else by the graph itself.
    """
    import torch

    seconds = stopwatch(device)
    calls = itertools.count()
    seconds(lambda: call(next(calls)))
    size = min(_group_size(seconds, call, calls), MOST_REPLAYED)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with capturing(graph, device):
        _repeat(call, calls, size)
    seconds(graph.replay)
    before = graph.replay
    if cold_bytes:
        before = partial(torch.empty(int(cold_bytes), dtype=torch.uint8, device=device).fill_, 1)

    def once() -> float:
        before()
        return seconds(graph.replay) / size

    return _repeated(once, effort)


def _repeated(once: Callable[[], float], effort: Effort) -> Sample:
    """Warm up for a part of the budget, then repeat a measurement until the effort ends."""
    begin = time.perf_counter()

    def spent_s() -> float:
        return time.perf_counter() - begin

    warm_ups = 0
    if effort.budget_s:  # without a budget, the calls so far are the warm-up
        warm_ups = len(warm_up(once, lambda: spent_s() >= WARM_UP_SHARE * effort.budget_s))
    times: list[float] = []
    ended = ""
    while not ended:
        raise_swallowed()
        times.append(once())
        ended = effort.ended(times, spent_s())
    return sample(times, warm_ups, ended)


def _group_size(seconds: Callable[..., float], call: Callable[[int], Any], calls: Iterator[int]) -> int:
    """Number of calls that last SHORTEST_S."""
    size, once = 1, seconds(partial(_repeat, call, calls, 1))
    while once * size < SHORTEST_S and size < 1_000_000:
        size = max(size + 1, min(10 * size, round(1.2 * SHORTEST_S / max(once, 1e-9))))
        once = seconds(partial(_repeat, call, calls, size)) / size
    return size


def _repeat(call: Callable[[int], Any], calls: Iterator[int], size: int) -> None:
    for _ in range(size):
        call(next(calls))
