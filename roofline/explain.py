"""The terms that make an operator's time, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from roofline.ceilings import Fidelity, ceilings
from roofline.predict import Row, pass_rows
from specfiles.errors import choose

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.scenario import Scenario


@dataclass(frozen=True)
class Term:
    """One part of a time: its name, its seconds and its reason."""

    name: str
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Explained:
    """One operator of one step: its time, the terms whose sum it is, and where the constants come from."""

    operator: str
    phase: str
    context: int  # positions that the step sees
    time_s: float
    terms: tuple[Term, ...]
    provenance: str


def explained(
    scenario: Scenario, device: Device, fidelity: Fidelity | str, operator: str, backend: str = ""
) -> list[Explained]:
    """The operator in the first step of each phase that has it, by the kernels of `backend` if given.

    Raises InputError where no phase has the operator.
    """
    limits, found, names = ceilings(device, fidelity, backend), [], []
    for each in scenario.schedule(device).passes:
        rows = pass_rows(replace(each, last=each.first), limits)
        names += [row.name for row in rows]
        found += [
            _explain(row, each.first) for row in rows if operator in (row.name, row.name.split(".")[-1])
        ]
    if not found:
        raise choose(operator, list(dict.fromkeys(names)), "operator to explain")
    return found


def _explain(row: Row, context: int) -> Explained:
    times, kernel = row.times, row.times.kernel
    if kernel is None:
        limit = Term(str(times.bound), float(times.time_s - times.launch_s), "work divided by its ceiling")
        launch = Term("launch", float(times.launch_s), "start of the kernel")
        terms = (limit, launch) if times.launch_s else (limit,)
        return Explained(row.name, row.phase, context, float(times.time_s), terms, "ceilings")
    parts = [
        Term(name, float(seconds[0]), kernel.why.get(name, "")) for name, seconds in kernel.parts.items()
    ]
    missing = float(times.time_s) - float(kernel.time_s[0])
    if missing > 0:
        parts.append(
            Term("ceiling", missing, "no fidelity goes below the one before: measured or data sheet")
        )
    said = str(kernel.provenance[0])
    return Explained(row.name, row.phase, context, float(times.time_s), tuple(parts), said)
