"""Time whole steps of a model, plain and with ranges in turn, and the operators inside."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.environment import shares_steps
from profiler.forward import Point, greedy
from profiler.instrument import instrumented
from profiler.recorders import InTurn, clock
from profiler.repeats import NARROW, Effort, Sample, median_interval, sample
from profiler.subject import Subject, convention_of
from profiler.timing import Lap, laps, without_collection
from roofline.run_head import Overhead
from workloads.convention import CONVENTIONS
from workloads.dtypes import Precision
from workloads.phases import Named, Setting, Step, operators
from workloads.techniques.changes import IN_LAYERS

if TYPE_CHECKING:
    from workloads.catalogue import Loaded

STRIDE = 8  # one layer in eight per repeat, in rotation, costs a CPU decode step 2 %
SHORT_S = 0.02  # a shorter CUDA step is noticeably longer while the host's caches are cold
SETTLING = 2  # steps that warm them


class Turns(NamedTuple):
    """The share of a step's ranges that one repeat records, in rotation: those of one in `stride` layers of
    each kind, and of one in `parts` range names.
    """

    stride: int
    parts: int = 1


@dataclass
class Timed:
    """Seconds of each repeat: whole steps without and with ranges, and the sum per range name.

    `waited` is the time that the steps of `plain` waited for a processor in addition, on a shared machine.
    `plain_at` and `ranged_at` are their ends by time.perf_counter.
    """

    plain: list[float] = field(default_factory=list)
    ranged: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    plain_at: list[float] = field(default_factory=list)
    ranged_at: list[float] = field(default_factory=list)
    ranges: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, whole: Lap, *, watched: bool) -> None:
        """Add a step that has just ended."""
        (self.ranged if watched else self.plain).append(whole.work_s)
        (self.ranged_at if watched else self.plain_at).append(time.perf_counter())
        if not watched:
            self.waited.append(whole.waited_s)

    @property
    def added(self) -> list[float]:
        """What ranges add to a step, as a fraction of it, by pair of neighbouring steps."""
        return [ranged / plain - 1 for ranged, plain in zip(self.ranged, self.plain, strict=False)]

    @property
    def in_layers(self) -> list[float]:
        """Total seconds of the operators in the layers, by repeat, of a model with identical layers."""
        inside = (times for name, times in self.ranges.items() if IN_LAYERS in name)
        return [sum(times) for times in zip(*inside, strict=False)]  # drops an interrupted repeat


def step_rows(timed: Timed, whole: Sample, began: float) -> dict[str, list[dict[str, Any]]]:
    """Rows of whole steps and of outliers so far.

    `whole` holds why the plain steps ended; `began` is the zero of times.
    """
    watched = sample(timed.ranged, whole.warm_ups, whole.ended)
    waited_s = sample(timed.waited).median_s
    each = ((False, whole, timed.plain, timed.plain_at), (True, watched, timed.ranged, timed.ranged_at))
    outliers = [
        {"instrumented": kind, "repeat": i, "step_s": times[i], "time_s": at[i] - began}
        for kind, said, times, at in each
        for i in said.outliers
    ]
    steps = [
        {"instrumented": kind, "waited_s": None if kind else waited_s, **said.row()}
        for kind, said, *_ in each
    ]
    return {"steps": steps, "outliers": outliers}


def overhead(point: Point, timed: Timed) -> Overhead:
    """The overhead of ranges at a point, as a fraction of the step.

    Each step with ranges is compared with its neighbour without, so that drift of the machine affects both;
    CPU time is compared, without waits.
    """
    ratios = timed.added
    low, high = median_interval(ratios)
    return Overhead(**vars(point), fraction=median(ratios), low=low, high=high, pairs=len(ratios))


def why_ended(
    effort: Effort, timed: Timed, spent_s: float, most_overhead: float | None, rounds: int | None = None
) -> str:
    """Why no more repeats are needed, empty while they are: also to know on which side of a limit, if one is
    given, the overhead of ranges is.
    """
    ended = effort.ended(timed.plain, spent_s, rounds)
    return "" if ended == NARROW and not decided(timed, most_overhead) else ended


def decided(timed: Timed, limit: float | None) -> bool:
    """Whether the pairs so far tell on which side of a limit, if one is given, the overhead of ranges is."""
    if limit is None:
        return True
    low, high = median_interval(timed.added)
    return not low <= limit < high


def time_ranges(
    subject: Subject,
    run: Callable[[Any], Any],
    repeats: int,
    *,
    plain_too: bool = False,
    warm_up: int = 1,
    timed: Timed | None = None,
    turns: Turns | None = None,
) -> Timed:
    """Run a step `repeats` times with ranges, with `plain_too` also without, in turn.

    Alternating lets drift of the machine affect both alike: their ratio is the ranges' overhead. Repeats of
    several calls are added to `timed`.
    """
    lap, recorder, timed = steady_laps(subject.device), clock(subject.device), timed or Timed()
    turns = turns or Turns(min(STRIDE, repeats))
    hearing = InTurn(recorder, turns.parts)
    for _ in range(warm_up):
        run(greedy)
    with without_collection():
        for repeat in range(len(timed.ranged), len(timed.ranged) + repeats):
            first, hearing.turn = divmod(repeat, turns.parts)
            for with_ranges in (repeat % 2 == 0, repeat % 2 == 1) if plain_too else (True,):
                with instrumented(subject, hearing, greedy, first=first, stride=turns.stride) as watched:
                    if with_ranges:
                        timed.add(lap(partial(run, watched.sampler), recorder.totals_s), watched=True)
                for name, total in recorder.totals_s().items():
                    timed.ranges[name].append(total * watched.scale(name))
                if not with_ranges:  # after the same work as the other kind, so that only ranges differ
                    timed.add(lap(partial(run, greedy), recorder.totals_s), watched=False)
    return timed


def steady_laps(device: str) -> Callable[..., Lap]:
    """A function that times a step as it runs in a generation, after equal steps.

    Inserting ranges into a model and removing them leaves the host's caches cold, and its next steps take up
    to a tenth longer to launch. So a short CUDA step is timed after equal ones, whose ranges `between`
    discards. Processes that share a model must run equally many steps, so there each step is the first.
    """
    lap = laps(device)
    once = not device.startswith("cuda") or shares_steps()

    def steady_lap(work: Callable[[], Any], between: Callable[[], object]) -> Lap:
        timed = lap(work)
        if not once and timed.work_s < SHORT_S:
            for _ in range(SETTLING):
                between()
                timed = lap(work)
        return timed

    return steady_lap


def operators_at(loaded: Loaded, dtype: str, point: Point, tensor_parallel: int = 1) -> Sequence[Named]:
    """The descriptor's operators of a point as run here, of one or more kernels each, on one device of
    those that share the model.
    """
    setting = Setting(Precision.of(dtype), CONVENTIONS[convention_of(loaded.model)], tensor_parallel)
    step = Step(point.batch, point.q_len, point.kv_len, memory=point.encoder_len)
    return operators(loaded.model, step, setting)
