"""What the numbers of a prediction take for granted and no option says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roofline.ceilings import Ceilings
    from workloads.schedule import Schedule

NOTICED = 0.01  # of the time


def notes(schedule: Schedule, limits: Ceilings, formats: set[str]) -> tuple[str, ...]:
    """What the numbers of a schedule that multiplies in `formats` take for granted, a sentence each."""
    main, others = schedule.main, schedule.others
    stages = main.setting.pipeline_parallel
    beside = f"{' and '.join(others)} runs beside {main.model.name}, by a technique"
    turns = f"one batch passes the {stages} stages in turn; several batches in flight are not counted"
    told = (*limits.told(formats), *schedule.notes)
    return (*told, *([beside] if others else []), *([turns] if stages > 1 else []))


def without_kernels(seconds: Mapping[str, float], whole_s: float) -> tuple[str, ...]:
    """A note on operators that no measured kernel times, by name with their seconds of `whole_s`.

    Nothing of those that take less than NOTICED of it.
    """
    shares = {name: took / whole_s for name, took in seconds.items() if took >= NOTICED * whole_s > 0}
    if not shares:
        return ()
    most = sorted(shares, key=shares.__getitem__, reverse=True)
    named = ", ".join(f"{name} ({100 * shares[name]:.0f} % of the time)" for name in most)
    return (f"lower bounds, as no kernels were measured: {named}",)
