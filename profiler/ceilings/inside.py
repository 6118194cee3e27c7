"""Steps of the yardsticks, and the time of each operator in them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from profiler.ceilings.plan import CLASS, REFERENCE, REFERENCE_LAYERS, STEP, Findings, Key, Plan
from profiler.environment import memory_bytes
from profiler.forward import Point, step
from profiler.kernels import PRODUCTS
from profiler.probes import INT8
from profiler.references import ReferenceStep, visit
from profiler.steps import operators_at, time_ranges
from profiler.subject import Subject, load_subject
from profiler.treatments.base import Around
from profiler.treatments.weight_only import has_fbgemm, narrowed
from profiler.yardsticks import cache_fits, formats_that_fit, steps_of, yardsticks
from workloads.catalogue import Loaded
from workloads.phases import Named
from workloads.techniques.changes import in_format, is_projection


@dataclass(frozen=True, eq=False)
class Inside:
    """A step of a yardstick, built or not."""

    device: str
    dtype: str
    loaded: Loaded
    point: Point
    narrow: bool = False  # INT8 weights in the layers' projections

    @property
    def key(self) -> Key:
        """Identifies the step."""
        at = self.point
        return (
            STEP,
            self.dtype,
            self.loaded.model.name,
            *(at.phase, at.batch, at.q_len, at.kv_len),
            self.narrow,
        )

    def operators(self) -> list[tuple[Key, str, Named]]:
        """Its timed operators: key, format of calibration, and operator."""
        rows = operators_at(self.loaded, self.dtype, self.point)
        plain = [(self.dtype, row) for row in rows]
        found = _narrow(rows, self.dtype, self.point) if self.narrow else plain
        return [((CLASS, dtype, *self.key[1:], named.name), dtype, named) for dtype, named in found]


def wanted_steps(plan: Plan, found: Findings) -> list[Inside]:
    """Every step of every yardstick in the formats that fit in memory, some also with INT8 weights."""
    return [made for dtype in _measured_formats(plan, found) for made in all_steps(plan.device, dtype)]


def all_steps(device: str, dtype: str) -> list[Inside]:
    """The steps in one format."""
    steps, memory = steps_of(device), memory_bytes(device)
    points = [Point(phase, *sizes) for phase in ("prefill", "decode") for sizes in getattr(steps, phase)]
    also = _narrow_points(device, dtype)
    return [
        Inside(device, dtype, loaded, p, narrow)
        for loaded in yardsticks(device)
        for p in points
        if cache_fits(loaded, dtype, (p.batch, p.q_len, p.kv_len), memory)
        for narrow in ((False, True) if p in also else (False,))
    ]


def _measured_formats(plan: Plan, found: Findings) -> list[str]:
    """The formats whose yardsticks fit in memory together; some formats have products only."""
    wide = [dtype for dtype in plan.dtypes if dtype not in PRODUCTS]
    fit = formats_that_fit(plan.device, wide, memory_bytes(plan.device))
    found.left_out += [
        f"no operators in {d}: memory does not hold their models" for d in wide if d not in fit
    ]
    return fit


def _narrow_points(device: str, dtype: str) -> list[Point]:
    """Points measured with INT8 weights: one row, and many rows where the kernel multiplies in INT8.

    The bf16 kernel widens weights: its products of many rows are bf16 products.
    """
    steps = steps_of(device)
    row = Point("decode", *steps.decode[1])
    if device != "cpu" or dtype not in ("fp32", "bf16"):
        return []
    if dtype == "bf16":
        return [row]
    many = [Point("prefill", *steps.prefill[which]) for which in (0, -1)]
    return [*many, row] if has_fbgemm() else []


def _narrow(rows: Sequence[Named], dtype: str, point: Point) -> Iterator[tuple[str, Named]]:
    """The layers' projections with INT8 weights, each with the format of its calibration.

    FBGEMM's products multiply in INT8; those of one row are also used by weight-only quantisation, so that
    their time counts for two classes.
    """
    found = [row for row in rows if is_projection(row)]
    kinds = [dtype] if point.phase == "decode" else []
    kinds += [INT8] if dtype == "fp32" else []
    for inputs in kinds:
        for row in found:
            narrow = in_format(row.operator, INT8, inputs)  # type: ignore[type-var]
            yield inputs, replace(row, operator=narrow)


class _Ready(NamedTuple):
    """A step with its model built and its cache filled."""

    subject: Subject
    run: Callable[[Any], Any]
    around: Around  # replaces the layers' projections for INT8 weights


class Running:
    """All steps, ready to be repeated and warmed up, with all models in memory."""

    def __init__(self, device: str, steps: Sequence[Inside]) -> None:
        self._ready: dict[Key, _Ready] = {}
        subjects: dict[tuple[str, str], tuple[Subject, Around]] = {}
        for made in steps:
            name = (made.dtype, made.loaded.model.name)
            if name not in subjects:
                subject = load_subject(made.loaded, device, made.dtype, seed=0)
                also = any(other.narrow for other in steps if other.dtype == made.dtype)
                subjects[name] = subject, narrowed(subject, INT8) if also else nullcontext
            subject, around = subjects[name]
            run = step(subject, made.point, made.point.kv_len)
            self._ready[made.key] = _Ready(subject, run, around if made.narrow else nullcontext)
        for ready in self._ready.values():
            with ready.around():
                time_ranges(ready.subject, ready.run, 0, warm_up=1)
        gc.collect()

    def visit(self, made: Inside) -> list[tuple[Key, list[float]]]:
        """Run a step: the seconds of each operator in it, and of the whole step if it is a reference."""
        subject, run, around = self._ready[made.key]
        with around():
            timed = visit(subject, made.point, run)
        found: list[tuple[Key, list[float]]] = [
            (key, [total / named.count for total in timed.ranges[named.name]])
            for key, _, named in made.operators()
        ]
        reference = ReferenceStep(subject, made.point, run)
        if reference.is_reference and not made.narrow:
            identity = tuple(reference.identity.items())
            found.append(((REFERENCE, *identity), timed.ranged))
            found.append(((REFERENCE_LAYERS, *identity), timed.in_layers))
        return found
