"""Reference steps: short steps of a yardstick, timed with the ceilings and again beside every measured point.

A shared machine changes speed within minutes. The ratio of the two times measures the change, on work that is
neither the profiled model's nor part of the fit: the yardstick held out of it. Both commands time the steps
with the same function, between steps of other models and without renewed warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from profiler import yardsticks
from profiler.forward import Point, step
from profiler.kernels import TORCH_DTYPES
from profiler.repeats import sample
from profiler.steps import Timed, Turns, operators_at, time_ranges
from profiler.subject import Subject, load_subject, out_of_memory
from specfiles.errors import InputError

MODEL = "yardstick-d"
PREFILLS, DECODES = 1, 4  # repeats of a step in one visit; decode steps are short


@dataclass
class ReferenceStep:
    """A step of the reference model, ready to be repeated."""

    subject: Subject
    point: Point
    run: Callable[[Any], Any]

    @property
    def is_reference(self) -> bool:
        """Whether this step of a yardstick is repeated beside measured points."""
        return self.subject.loaded.model.name == MODEL and self.point in reference_points(self.subject.device)

    @property
    def identity(self) -> dict[str, Any]:
        """The work of the step: only times of equal work are comparable."""
        named = operators_at(self.subject.loaded, self.subject.dtype, self.point)
        works = [(entry.count, entry.operator.work()) for entry in named]
        return {
            "phase": self.point.phase,
            "dtype": self.subject.dtype,
            "model": self.subject.loaded.model.name,
            "flops": float(sum(count * work.flops for count, work in works)),
            "bytes": float(sum(count * work.bytes for count, work in works)),
        }

    def time(self, timed: Timed | None = None) -> Timed:
        """Visit the step once; the repeats are added to `timed`."""
        return visit(self.subject, self.point, self.run, timed)

    def rows(self, timed: Timed) -> list[dict[str, Any]]:
        """The row of its repeats in the table `references`; none before the first."""
        if not timed.ranged:
            return []
        whole, layers = sample(timed.ranged), sample(timed.in_layers)
        return [{**self.identity, **whole.row(), "layers_s": layers.median_s}]


def visit(
    subject: Subject,
    point: Point,
    run: Callable[[Any], Any],
    timed: Timed | None = None,
    *,
    plain_too: bool = False,
    turns: Turns | None = None,
) -> Timed:
    """Repeat a step a few times, between steps of other models and without warm-up."""
    repeats = max(repeats_of(point), turns.parts if turns else 1)  # every range has its turn
    return time_ranges(subject, run, repeats, plain_too=plain_too, warm_up=0, timed=timed, turns=turns)


def repeats_of(point: Point) -> int:
    """Repeats of a step in one visit."""
    return PREFILLS if point.phase == "prefill" else DECODES


def reference_points(device: str) -> tuple[Point, Point]:
    """The reference steps: of medium size among those of every yardstick."""
    steps = yardsticks.steps_of(device)
    return Point("prefill", *steps.prefill[1]), Point("decode", *steps.decode[1])


def reference_steps(device: str, dtype: str) -> Iterator[ReferenceStep]:
    """Build the reference model and its steps. Raises InputError where memory does not hold it."""
    loaded = next(entry for entry in yardsticks.yardsticks(device) if entry.model.name == MODEL)
    subject = load_subject(loaded, device, dtype, seed=0)
    for point in reference_points(device):
        made = ReferenceStep(subject, point, step(subject, point, point.kv_len))
        time_ranges(subject, made.run, 0, warm_up=1)
        yield made


def steps_beside(device: str, dtype: str, notes: list[str]) -> dict[str, ReferenceStep]:
    """Reference steps by phase; none, and a note, where they cannot run beside a model."""
    if dtype not in TORCH_DTYPES:
        notes.append(f"no reference steps were run: no yardstick runs in {dtype}")
        return {}
    try:
        return {made.point.phase: made for made in reference_steps(device, dtype)}
    except Exception as error:
        if not (isinstance(error, InputError) or out_of_memory(error)):
            raise
        notes.append("no reference steps were run: they found no place in memory beside the model")
        return {}
