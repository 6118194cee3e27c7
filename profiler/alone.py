"""Operators measured alone: each as a reference kernel with cold weights, checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.environment import COLD_FACTOR, answers, last_level_cache_bytes
from profiler.kernels import KERNEL_ERRORS, Place, company, kernel
from profiler.repeats import Effort, Sample
from profiler.subject import failure
from profiler.timing import measure

if TYPE_CHECKING:
    from workloads.phases import Named

ALONE_FACTOR = 4  # repeats of an operator alone for each of a step
BUDGET_S = 0.5  # for the repeats of one operator


def alone(
    named: Iterable[Named], device: str, dtype: str | None, effort: Effort, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row of the table `operators` each; without a `dtype`, each operator in its own compute format.

    `effort` is that of a step; an operator is repeated more often, in less time. An operator without a
    reference kernel, or one that fails or deviates from fp64, has no row. Raises the error in which
    the device was lost.
    """
    effort = replace(effort, repeats=ALONE_FACTOR * effort.repeats, budget_s=BUDGET_S)
    cold = COLD_FACTOR * last_level_cache_bytes(device)
    rows = []
    for entry in named:
        wanted = dtype or str(entry.operator.work().dtype)
        try:
            timed, ran = _timed(entry, Place(device, wanted, cold), effort)
        except KERNEL_ERRORS as missing:
            if not answers(device):
                raise
            progress(f"  {entry.name} not measured alone: {failure(missing)}")
            continue
        about = {"name": entry.name, "kind": entry.operator.kind, "where": "alone", "count": entry.count}
        rows.append({**about, **timed.row(), "kernel": ran})
    return rows


def _timed(entry: Named, place: Place, effort: Effort) -> tuple[Sample, str]:
    """Its times and the kernel that computed it."""
    kernel(entry.operator, Place(place.device, place.dtype)).checked_error(place.dtype)
    made = kernel(entry.operator, place)
    return measure(made.run, place.device, effort, between=company(place)), made.words
