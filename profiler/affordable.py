"""Choose how many ranges each repeat of a CUDA step records, from their measured overhead.

A step of few tokens is bound by the host, so every event that the host records makes it longer, by a share
that depends on the host, the driver and the model. On a CPU the share is fixed (`steps.STRIDE`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any

from profiler.environment import shares_steps
from profiler.forward import greedy
from profiler.instrument import instrumented
from profiler.recorders import clock
from profiler.steps import STRIDE, Turns, steady_laps
from profiler.timing import without_collection

if TYPE_CHECKING:
    from profiler.recorders import Marks
    from profiler.subject import Subject

AIM = 0.01  # of a step; the limit is 3 %, and wrapped functions of unwatched layers cost some of it
MOST_PARTS = 4  # every range is recorded within so many repeats
PAIRS, LONGEST_S = 5, 1.0  # steps with all ranges and without: at most so many, in at most this time, or one


class _Counter:
    """A recorder that counts ranges."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def marks(self, name: str) -> Marks:
        return (partial(self.names.append, name),), ()


def affordable(subject: Subject, run: Callable[[Any], Any], repeats: int) -> Turns | None:
    """The share of ranges whose estimated overhead is at most AIM; None, for the fixed share, on a CPU.

    Fewer layers first, from one in `repeats` on; then, with one layer of each kind, fewer range names.
    """
    if not subject.device.startswith("cuda") or shares_steps():
        return None  # processes that share a model must run equally many steps
    counts = _ranges(subject, run)
    plain_s, added_s = _cost(subject, run)
    bearable = sum(counts.values()) * AIM * plain_s / added_s if added_s > 0 else float("inf")
    stride, heard = min(STRIDE, repeats), float("inf")
    while True:
        fewer = _heard(subject, counts, stride)
        if fewer <= bearable or fewer == heard:
            return Turns(stride, max(1, min(MOST_PARTS, ceil(fewer / bearable))))
        stride, heard = 2 * stride, fewer


def _ranges(subject: Subject, run: Callable[[Any], Any]) -> Counter[str]:
    """How often each range comes in a step."""
    counter = _Counter()
    with instrumented(subject, counter, greedy) as watched:
        run(watched.sampler)
    return Counter(counter.names)


def _heard(subject: Subject, counts: Counter[str], stride: int) -> float:
    """How many of them a step has with a stride."""
    with instrumented(subject, _Counter(), greedy, stride=stride) as watched:
        return sum(count / watched.scale(name) for name, count in counts.items())


def _cost(subject: Subject, run: Callable[[Any], Any]) -> tuple[float, float]:
    """Seconds of a step, and what all ranges add to it: the most in any pair, so noise gives fewer ranges."""
    lap, recorder = steady_laps(subject.device), clock(subject.device)
    plain: list[float] = []
    added: list[float] = []
    begin = time.perf_counter()
    with without_collection():
        while not plain or (len(plain) < PAIRS and time.perf_counter() - begin < LONGEST_S):
            with instrumented(subject, recorder, greedy) as watched:
                ranged = lap(partial(run, watched.sampler), recorder.totals_s).work_s
            recorder.totals_s()
            plain.append(lap(partial(run, greedy), recorder.totals_s).work_s)
            added.append(ranged - plain[-1])
    return median(plain), max(added)
