"""Apply several techniques to one schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specfiles.errors import InputError
from workloads.schedule import Schedule
from workloads.sharing import check_sharing
from workloads.techniques.base import Target, Technique


def compose(techniques: Iterable[Technique], schedule: Schedule, target: Target) -> Schedule:
    """The schedule with all techniques, each once, in their own order, not the given one.

    Raises InputError where two exclude each other or one is not applicable, with the reason.
    """
    return compose_for(techniques, schedule, [target])[0]


def compose_for(
    techniques: Iterable[Technique], schedule: Schedule, targets: Sequence[Target]
) -> tuple[Schedule, list[bool]]:
    """The schedule with all techniques, the same on every device, and the devices that allow it.

    Raises InputError where none does, with the first one's reason, or where the devices that share the model
    cannot divide its shapes any more.
    """
    allowed = [True] * len(targets)
    for technique in in_order(techniques):
        reasons = [technique.refuse(schedule, target) for target in targets]
        allowed = [was and reason is None for was, reason in zip(allowed, reasons, strict=True)]
        if None not in reasons:
            raise InputError(f"{technique.name} is not applicable: {reasons[0]}.")
        schedule = technique.apply(schedule)
        main = schedule.main
        try:
            check_sharing(main.model, main.setting, main.batch)
        except InputError as error:
            raise InputError(f"{technique.name} is not applicable: with it {error}") from None
    return schedule, allowed


def in_order(techniques: Iterable[Technique]) -> list[Technique]:
    """Techniques as they apply; an InputError says which exclude each other."""
    chosen = sorted(techniques, key=lambda t: (t.order, t.name))
    taken: dict[str, Technique] = {}
    for technique in chosen:
        for slot in technique.decides():
            other = taken.setdefault(slot, technique)
            if other is not technique:
                alike = other.name == technique.name
                both = f"two of {other.name}" if alike else f"{other.name} and {technique.name}"
                raise InputError(f"{both} cannot be combined: each decides {slot}; choose one.")
    return chosen
