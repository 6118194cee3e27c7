"""Measure a technique: the step without and with it in turn, after both were compared."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from profiler.attending import SEPARATE
from profiler.kernels import TOLERANCE
from profiler.repeats import sample
from profiler.subject import Point, Subject, convention_of
from profiler.timing import stopwatch, without_collection
from profiler.treatments.attention import FlashAttention
from profiler.treatments.base import Pair, Treatment, apart
from profiler.treatments.compilation import FusedElementwise
from profiler.treatments.eight_bit import WeightActivation
from profiler.treatments.graphs import CudaGraphs
from profiler.treatments.grouped_query import GroupedQuery
from profiler.treatments.kv_offload import KvOffload
from profiler.treatments.prefix import Prefix
from profiler.treatments.pruning import LayerPruning
from profiler.treatments.self_speculation import SelfSpeculative
from profiler.treatments.sparsity import TwoOfFour
from profiler.treatments.speculation import Speculative
from profiler.treatments.weight_offload import WeightOffload
from profiler.treatments.weight_only import WeightOnly
from profiler.treatments.window import Window
from specfiles.errors import InputError
from workloads.techniques.base import Technique

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


def treatment(technique: Technique, device: str, dtype: str, phases: Sequence[str]) -> Treatment:
    """How a technique is run. Raises InputError where it cannot be measured here, with the reason."""
    known = TREATMENTS.get(technique.name)
    if known is None:
        listed = ", ".join(TREATMENTS)
        raise InputError(f"{technique.name} is not measured by `profile --with`, which knows: {listed}.")
    reason = known.refuse(technique, device, dtype)
    if reason is None and not set(known.phases) & set(phases):
        reason = f"it is measured in {' and '.join(known.phases)}, and no such step was asked for"
    if reason is not None:
        raise InputError(f"{technique.name} cannot be measured here: {reason}.")
    return known


def measured(technique: Technique, subject: Subject, point: Point, repeats: int) -> dict[str, Any] | None:
    """One row: times without and with the technique, and the gain; None where it does not concern the phase.

    Raises InputError where the results of a technique that should not change them differ.
    """
    how = TREATMENTS[technique.name]
    if point.phase not in how.phases:
        return None
    pair = how.pair(technique, subject, point)
    difference = deviation(pair) if how.compared else None
    allowed = TOLERANCE[subject.dtype]
    if difference is not None and how.exact and not difference <= allowed:
        raise InputError(
            f"{technique.name} was not timed: its results differ by {difference:.2g} of the largest, "
            f"{allowed:g} is allowed."
        )
    if pair.difference is not None or not how.compared:  # otherwise both have run already
        _warm(pair)
    base, treated = _in_turn(pair, subject.device, repeats)
    base_s, treated_s = per_token(pair, base, treated)
    gains = sample([a / b for a, b in zip(base_s, treated_s, strict=True)])
    return {
        "technique": pair.technique.told(),
        "convention": pair.convention or _convention(subject),
        "repeats": repeats,
        "base_s": sample(base_s).median_s,
        "treated_s": sample(treated_s).median_s,
        "gain": gains.median_s,
        "gain_q25": gains.q25_s,
        "gain_q75": gains.q75_s,
        "deviation": difference,
        "remark": pair.remark,
    }


def _convention(subject: Subject) -> str:
    """The one that counts the model as it runs."""
    return convention_of(subject.loaded.model, scores_in_memory=subject.attention == SEPARATE)


def per_token(pair: Pair, base: Sequence[float], treated: Sequence[float]) -> tuple[list[float], list[float]]:
    """Seconds of each run over the decode steps that it is worth."""
    worth = pair.treated_tokens or pair.tokens
    return [seconds / pair.tokens for seconds in base], [seconds / worth for seconds in treated]


def deviation(pair: Pair) -> float:
    """The largest difference of results over the largest result."""
    if pair.difference is not None:
        return pair.difference()
    with pair.around_plain():
        expected = pair.plain()
    with pair.around_treated():
        found = pair.treated()
    return apart(expected, found)


def _warm(pair: Pair) -> None:
    """Run both once: memory is allocated and kernels are chosen then."""
    with pair.around_plain():
        pair.plain()
    with pair.around_treated():
        pair.treated()


def _in_turn(pair: Pair, device: str, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each run; the order alternates, so that a drift of the machine touches both alike."""
    seconds = stopwatch(device)
    times: dict[bool, list[float]] = {False: [], True: []}
    gc.collect()
    with without_collection():
        for repeat in range(repeats):
            for treated in (repeat % 2 == 0, repeat % 2 == 1):
                with pair.around_treated() if treated else pair.around_plain():
                    times[treated].append(seconds(pair.treated if treated else pair.plain))
    return times[False], times[True]
