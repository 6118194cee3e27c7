"""A point of a run during its measurement, and the rows of its times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from profiler.attending import attending
from profiler.forward import Point
from profiler.parts.base import FRAMEWORK
from profiler.references import ReferenceStep
from profiler.repeats import NOT_OVER, WARM_UP_S, Sample, sample, warm_up
from profiler.request import Request
from profiler.steps import Timed, operators_at, step_rows
from profiler.timing import laps
from profiler.ways import Way
from roofline.together import parts
from workloads.phases import Named

Tables = dict[str, list[dict[str, Any]]]


@dataclass(kw_only=True)
class Repeats:
    """The repeats of a step so far, and those of its reference step."""

    timed: Timed = field(default_factory=Timed)
    beside: Timed = field(default_factory=Timed)
    warm_ups: int = 0
    ended: str = ""  # why no more repeats were made

    @property
    def begun(self) -> bool:
        """Whether there is a repeat with ranges and one without."""
        return bool(self.timed.plain and self.timed.ranged)

    @property
    def whole(self) -> Sample:
        """Statistics of the plain repeats."""
        return sample(self.timed.plain, self.warm_ups, self.ended or NOT_OVER)


@dataclass
class Measured(Repeats):
    """A point and its repeats."""

    request: Request
    point: Point
    way: Way
    reference: ReferenceStep | None

    def warm_up(self) -> None:
        """Run the step until it has settled."""
        lap, begin = laps(self.request.device), time.perf_counter()

        def late() -> bool:
            return time.perf_counter() - begin >= WARM_UP_S

        with attending(self.request.attention):
            calls = warm_up(lambda: lap(self.way.once).work_s, late, self.request.together)
        self.warm_ups = len(calls)

    def time(self) -> None:
        """One turn: the reference step, then the point."""
        self.time_reference()
        with attending(self.request.attention):  # the reference step keeps the device file's attention
            self.way.visit(self.timed)

    def time_reference(self) -> None:
        """The reference step alone, as after the last round."""
        if self.reference:
            self.reference.time(self.beside)


def point_rows(measured: Measured, began: float) -> Tables:
    """The rows of a point's steps, of the operators inside, and of the reference step beside it."""
    point, timed = measured.point, measured.timed
    steps = step_rows(timed, measured.whole, began)
    described = {n.name: n for n in described_at(measured.request, point)}
    operators = []
    for name, totals in timed.ranges.items():
        together = [described[part] for part in parts(name, described) if part in described]
        kind = together[0].operator.kind if together else ""  # the first of operators that share a range
        counts = {entry.count for entry in together}
        count = counts.pop() if len(counts) == 1 else 1  # counts differ: one row for all of a step
        each = sample([total / count for total in totals])
        where = "framework" if name.startswith(FRAMEWORK) else "model"
        operators.append({"name": name, "kind": kind, "where": where, "count": count, **each.row()})
    references = measured.reference.rows(measured.beside) if measured.reference else []
    tables = {**steps, "operators": operators, "references": references}
    return {name: [{**row, **vars(point)} for row in rows] for name, rows in tables.items()}


def described_at(request: Request, point: Point) -> Sequence[Named]:
    """The operators of a point, as one process runs them."""
    return operators_at(request.loaded, request.dtype, point, request.tensor_parallel)
