"""Time a callable on a CPU or a CUDA device: warm, repeated, quartiles kept."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

SHORTEST_S = 2e-3  # one repeat lasts at least this long, so that the clock's resolution does not matter


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage is collected in the block: a collection would land in some step and not in others."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass(frozen=True)
class Sample:
    """Quartiles over repeats of the time of one call, in seconds."""

    median_s: float
    q25_s: float
    q75_s: float
    repeats: int

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return (self.q75_s - self.q25_s) / self.median_s

    @property
    def uncertainty(self) -> float:
        """Standard error of the median over the median, for a normal spread: 1.253 sigma / sqrt(n)."""
        return 1.253 * self.spread / 1.349 / math.sqrt(self.repeats)


def sample(times_s: Sequence[float]) -> Sample:
    """The quartiles of repeats; none are dropped."""
    import numpy as np

    q25, median, q75 = np.quantile(times_s, (0.25, 0.5, 0.75))
    return Sample(float(median), float(q25), float(q75), len(times_s))


class Lap(NamedTuple):
    """One timed call: seconds of work, and what passed beyond them while it waited for a processor."""

    work_s: float
    waited_s: float = 0.0

    @property
    def passed_s(self) -> float:
        """By the wall's clock."""
        return self.work_s + self.waited_s


def host_clock() -> Callable[[], int]:
    """Nanoseconds of work on the host: time that the thread ran, without its waits for a processor.

    On a shared machine a step may wait longer than it runs, and the waits say nothing about its operators.
    Where torch uses several threads no clock of one thread tells their time, and the wall clock is read; so
    where several processes run a step together: then waiting for each other is part of it.
    """
    import torch

    one = torch.get_num_threads() == 1 and not torch.distributed.is_initialized()
    return time.thread_time_ns if one else time.perf_counter_ns


def laps(device: str) -> Callable[[Callable[[], Any]], Lap]:
    """A function that times a callable on a device and tells work from waiting."""
    if not device.startswith("cuda"):
        return partial(_host_lap, host_clock())
    import torch

    def cuda_lap(work: Callable[[], Any]) -> Lap:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return Lap(float(begin.elapsed_time(end)) * 1e-3)

    return cuda_lap


def stopwatch(device: str) -> Callable[[Callable[[], Any]], float]:
    """A function that returns the seconds of work that a callable is on a device."""
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
    *,
    between: Callable[[int], Any] | None = None,
    repeats: int = 9,
    budget_s: float = 2.0,
    precision: float = 0.0,
) -> Sample:
    """Time `call(i)`, where i counts up so that the callee can rotate its buffers.

    With `between`, each call is timed by itself after it: the call then finds the caches as an
    operator in a model does. Without, calls are grouped until a repeat lasts SHORTEST_S. Repeats end
    early when the budget is spent or the median is known to `precision`, but never below three.
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

    return _repeated(once, repeats, budget_s, precision)


def measure_replayed(
    call: Callable[[int], Any],
    device: str,
    *,
    repeats: int = 9,
    budget_s: float = 2.0,
    precision: float = 0.0,
) -> Sample:
    """Time `call(i)` on a CUDA device by replaying a graph of many calls: without the host's launch times."""
    import torch

    seconds = stopwatch(device)
    calls = itertools.count()
    seconds(lambda: call(next(calls)))
    size = min(_group_size(seconds, call, calls), MOST_REPLAYED)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.device(device), torch.cuda.graph(graph):
        _repeat(call, calls, size)
    seconds(graph.replay)
    return _repeated(lambda: seconds(graph.replay) / size, repeats, budget_s, precision)


MOST_REPLAYED = 200  # calls in one graph: each keeps its results, and capturing takes time
FEWEST = 3


def _repeated(once: Callable[[], float], repeats: int, budget_s: float, precision: float) -> Sample:
    """Repeat a measurement until its count, its budget or its precision is reached; none is dropped."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < repeats and (len(times) < FEWEST or time.perf_counter() - begin < budget_s):
        times.append(once())
        if len(times) > 2 * FEWEST and sample(times).uncertainty < precision:
            break
    return sample(times)


def _group_size(seconds: Callable[..., float], call: Callable[[int], Any], calls: Iterator[int]) -> int:
    """How many calls last SHORTEST_S."""
    size, once = 1, seconds(partial(_repeat, call, calls, 1))
    while once * size < SHORTEST_S and size < 1_000_000:
        size = max(size + 1, min(10 * size, round(1.2 * SHORTEST_S / max(once, 1e-9))))
        once = seconds(partial(_repeat, call, calls, size)) / size
    return size


def _repeat(call: Callable[[int], Any], calls: Iterator[int], size: int) -> None:
    for _ in range(size):
        call(next(calls))
