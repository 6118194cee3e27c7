"""Apply several techniques to one schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from specfiles.errors import InputError

if TYPE_CHECKING:
    from workloads.schedule import Schedule
    from workloads.techniques.base import Target, Technique


def compose(techniques: Iterable[Technique], schedule: Schedule, target: Target) -> Schedule:
    """The schedule with all techniques, each once, in their own order and not in that of the question.

    Raises InputError where two exclude each other or one is not applicable, with the reason.
    """
    chosen = sorted(techniques, key=lambda t: (t.order, t.name))
    taken: dict[str, Technique] = {}
    for technique in chosen:
        other = taken.setdefault(technique.slot, technique)
        if other is not technique:
            raise InputError(
                f"{other.name} and {technique.name} cannot be combined: each decides {technique.slot}; "
                "choose one."
            )
    for technique in chosen:
        reason = technique.refuse(schedule, target)
        if reason is not None:
            raise InputError(f"{technique.name} is not applicable: {reason}.")
        schedule = technique.apply(schedule)
    return schedule
