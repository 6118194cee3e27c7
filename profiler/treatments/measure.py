"""Measure a technique: the step without and with it in turn, after their results were compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from profiler.attending import SEPARATE
from profiler.forward import Point
from profiler.interrupts import raise_swallowed
from profiler.kernels import TOLERANCE
from profiler.repeats import WARM_UP_S, Effort, sample, warm_up
from profiler.subject import Subject, convention_of
from profiler.timing import stopwatch, without_collection
from profiler.treatments.base import Pair, Treatment, apart
from profiler.treatments.caches import Prefix, Window
from profiler.treatments.eight_bit import WeightActivation
from profiler.treatments.execution import CudaGraphs, FlashAttention, FusedElementwise
from profiler.treatments.kv_offload import KvOffload
from profiler.treatments.shapes import GroupedQuery, LayerPruning
from profiler.treatments.sparsity import TwoOfFour
from profiler.treatments.speculation import SelfSpeculative, Speculative
from profiler.treatments.weight_offload import WeightOffload
from profiler.treatments.weight_only import WeightOnly
from specfiles.errors import InputError
from workloads.techniques.base import Technique

Together = Callable[[bool], bool]  # whether something is true in every process
Made = TypeVar("Made")
TREATMENTS: dict[str, Treatment] = {
    treatment.name: treatment
    for treatment in (
        WeightOnly(),
        WeightActivation(),
        TwoOfFour(),
        FlashAttention(),
        FusedElementwise(),
        CudaGraphs(),
        Window(),
        GroupedQuery(),
        Prefix(),
        Speculative(),
        SelfSpeculative(),
        LayerPruning(),
        WeightOffload(),
        KvOffload(),
    )
}


def treatment(
    technique: Technique,
    device: str,
    dtype: str,
    phases: Sequence[str],
    *,
    shared: bool = False,
    two_stacks: bool = False,
) -> Treatment:
    """The treatment of a technique. Raises InputError with the reason where it cannot be measured here."""
    known = TREATMENTS.get(technique.name)
    if known is None:
        listed = ", ".join(TREATMENTS)
        raise InputError(f"{technique.name} is not measured by `profile --with`, which knows: {listed}.")
    reason = known.refuse(technique, device, dtype)
    if reason is None and not set(known.phases) & set(phases):
        reason = f"it is measured in {' and '.join(known.phases)}, and no such step was asked for"
    if reason is None and shared and not known.shared:
        those = ", ".join(name for name, other in TREATMENTS.items() if other.shared)
        reason = f"processes share the model, on which run: {those}; leave --tp out"
    if reason is None and two_stacks and not known.two_stacks:
        those = ", ".join(name for name, other in TREATMENTS.items() if other.two_stacks)
        reason = f"the model has an encoder, and with one run: {those}"
    if reason is not None:
        raise InputError(f"{technique.name} cannot be measured here: {reason}.")
    return known


def measured(
    technique: Technique, subject: Subject, point: Point, effort: Effort, together: Together = bool
) -> dict[str, Any] | None:
    """One row: times without and with the technique, and the gain; None where it does not apply to the phase.

    The precision of `effort` is that of the gain. Processes that share the model begin and end `together`.
    Raises InputError where results differ although the technique is exact.
    """
    how = TREATMENTS[technique.name]
    if point.phase not in how.phases:
        return None
    pair = _agreed(together, lambda: how.pair(technique, subject, point))
    difference = deviation(pair) if how.compared else None
    _agreed(together, lambda: _check(how, difference, TOLERANCE[subject.dtype]))
    turns = _in_turn(pair, stopwatch(subject.device), effort, together=together)
    base_s, treated_s = per_token(pair, turns.base, turns.treated)
    gains = sample(_ratios(base_s, treated_s), turns.warm_ups, turns.ended)  # numbers, not seconds
    return {
        "technique": pair.technique.told(),
        "convention": pair.convention
        or convention_of(subject.loaded.model, scores_in_memory=subject.attention == SEPARATE),
        "repeats": gains.repeats,
        "base_s": sample(base_s).median_s,
        "treated_s": sample(treated_s).median_s,
        "gain": gains.median_s,
        "gain_q25": gains.q25_s,
        "gain_q75": gains.q75_s,
        "gain_low": gains.low_s,
        "gain_high": gains.high_s,
        "outliers": len(gains.outliers),
        "warm_ups": gains.warm_ups,
        "ended": gains.ended,
        "deviation": difference,
        "remark": pair.remark,
        "ran": pair.ran.told() if pair.ran else "",
    }


def _agreed(together: Together, make: Callable[[], Made]) -> Made:
    """The result of `make`. Raises InputError in every process where one of them cannot make it."""
    try:
        made = make()
    except InputError:
        together(False)
        raise
    if not together(True):
        raise InputError("another process of the run refused it.")
    return made


def _check(how: Treatment, difference: float | None, allowed: float) -> None:
    """InputError where an exact technique changes results."""
    if difference is not None and how.exact and not difference <= allowed:
        raise InputError(
            f"{how.name} was not timed: its results differ by {difference:.2g} of the largest, "
            f"{allowed:g} is allowed."
        )


def per_token(pair: Pair, base: Sequence[float], treated: Sequence[float]) -> tuple[list[float], list[float]]:
    """Seconds of each run per generated token."""
    treated_tokens = pair.treated_tokens or pair.tokens
    return [seconds / pair.tokens for seconds in base], [seconds / treated_tokens for seconds in treated]


def deviation(pair: Pair) -> float:
    """The largest difference of results, over the largest result."""
    if pair.difference is not None:
        return pair.difference()
    with pair.around_plain():
        expected = pair.plain()
    with pair.around_treated():
        found = pair.treated()
    return apart(expected, found)


class _Turns(NamedTuple):
    """Seconds of each run without and with a technique: neighbours have the same index."""

    base: list[float]
    treated: list[float]
    warm_ups: int  # the larger number of both
    ended: str  # why no more were made


def _in_turn(
    pair: Pair,
    seconds: Callable[[Callable[[], Any]], float],
    effort: Effort,
    now: Callable[[], float] = time.perf_counter,
    together: Together = bool,
) -> _Turns:
    """Warm both up, then time them in turn until the gain is known or the effort ends otherwise.

    The order alternates, so that drift of the machine affects both alike.
    """
    times: dict[bool, list[float]] = {False: [], True: []}

    def once(treated: bool) -> float:
        with pair.around_treated() if treated else pair.around_plain():
            return seconds(pair.treated if treated else pair.plain)

    gc.collect()
    with without_collection():
        warm_ups = max(_warmed(partial(once, treated), now, together) for treated in (False, True))
        begin, ended = now(), ""
        while not ended:
            raise_swallowed()
            first = len(times[True]) % 2 == 0
            for treated in (first, not first):
                times[treated].append(once(treated))
            ended = effort.ended(_ratios(times[False], times[True]), now() - begin)
            ended = ended if together(bool(ended)) else ""
    return _Turns(times[False], times[True], warm_ups, ended)


def _warmed(once: Callable[[], float], now: Callable[[], float], together: Together) -> int:
    """The number of runs until warm."""
    begin = now()
    return len(warm_up(once, lambda: now() - begin >= WARM_UP_S, together))


def _ratios(base: Sequence[float], treated: Sequence[float]) -> list[float]:
    """The gain of each pair."""
    return [a / b for a, b in zip(base, treated, strict=True)]
