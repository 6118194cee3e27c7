"""What the numbers of a prediction take for granted and no option says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roofline.ceilings import Ceilings
    from workloads.schedule import Schedule
    from workloads.step import Setting

NOTICED = 0.01  # of the time
JOINED = 8  # devices that most nodes have


def notes(schedule: Schedule, limits: Ceilings, formats: set[str]) -> tuple[str, ...]:
    """What the numbers of a schedule that multiplies in `formats` take for granted, a sentence each."""
    main, others = schedule.main, schedule.others
    stages = main.setting.pipeline_parallel
    beside = f"{' and '.join(others)} runs beside {main.model.name}, by a technique"
    turns = f"one batch passes the {stages} stages in turn; several batches in flight are not counted"
    told = (*limits.told(formats), *schedule.notes, *unjoined(main.setting, limits))
    return (*told, *([beside] if others else []), *([turns] if stages > 1 else []))


def unjoined(setting: Setting, limits: Ceilings) -> tuple[str, ...]:
    """A note where more devices share layers than a node has, and no node says how these are linked."""
    devices = max(setting.tensor_parallel, setting.expert_parallel)
    if devices <= JOINED or limits.island is not None:
        return ()
    rate = f"{limits.link() / 1e9:.4g} GB/s"
    return (f"all {devices} devices are taken to be in one node, each with {rate} to the others",)


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
