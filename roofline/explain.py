"""The terms that make an operator's time, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity, ceilings
from roofline.physics.columns import SIZES
from roofline.predict import pass_rows
from specfiles.errors import choose

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.ceilings import Ceilings
    from roofline.scenario import Scenario
    from roofline.times import Times


@dataclass(frozen=True)
class Term:
    """One part of a time: its name, its seconds and its reason."""

    name: str
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Explained:
    """One operator: its time, the terms whose sum it is, and where the constants come from."""

    operator: str
    phase: str  # of the step that it is in; empty where it stands alone
    context: int  # positions that the step sees
    time_s: float
    terms: tuple[Term, ...]
    provenance: str
    whose: str = ""  # the library and kernel whose constants they are; empty where they are of several


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
            _explain(row.name, row.phase, each.first, row.times)
            for row in rows
            if operator in (row.name, row.name.split(".")[-1])
        ]
    if not found:
        raise choose(operator, list(dict.fromkeys(names)), "operator to explain")
    return found


def explained_rows(table: pd.DataFrame, limits: Ceilings) -> list[Explained]:
    """Each row of a table of operators (`roofline.optable`) in its order, by kind, format and sizes."""
    from roofline.optable import timed
    from roofline.tablenames import tidied

    named, found = tidied(table), []
    for at in range(len(named)):
        row = named.iloc[[at]]
        said = [str(row[n].iloc[0]) for n in ("op", "dtype") if n in row]
        said += [f"{n} {row[n].iloc[0]:g}" for n in SIZES if n in row and row[n].notna().all()]
        found += [_explain(" ".join(said), "", 0, times) for _, _, times in timed(row, limits)]
    return found


def _explain(operator: str, phase: str, context: int, times: Times) -> Explained:
    kernel, time = times.kernel, _number(times.time_s)
    if kernel is None:
        bound, launch = str(_first(times.bound)), _number(times.launch_s)
        terms = [Term(bound, time - launch, "work divided by its ceiling")]
        terms += [Term("launch", launch, "kernel launch")] if launch else []
        return Explained(operator, phase, context, time, tuple(terms), "ceilings")
    terms = [Term(name, _number(part), kernel.why.get(name, "")) for name, part in kernel.parts.items()]
    missing = time - _number(kernel.time_s)
    if missing > 0:
        terms.append(Term("ceiling", missing, "raised to the measured or data-sheet bound"))
    return Explained(operator, phase, context, time, tuple(terms), str(kernel.provenance[0]), kernel.whose)


def _first(value: Any) -> Any:
    """The only row of an array; anything else as it is."""
    return value[0] if getattr(value, "shape", ()) else value


def _number(value: Any) -> float:
    return float(_first(value))
