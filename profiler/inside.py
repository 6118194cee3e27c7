"""The parts of a measured step: its trace, techniques, energy, collectives, and its operators alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from profiler.alone import alone
from profiler.attending import attending
from profiler.energy import energy_rows
from profiler.environment import answers
from profiler.forward import Point
from profiler.kernel_times import shares
from profiler.kernels import KERNEL_ERRORS
from profiler.measured_point import Measured, described_at
from profiler.noting import attributed_words, gain_words, in_words, label, unfused_words, unrecorded_words
from profiler.ranges import family
from profiler.record_rows import SAVE_EVERY_S, Rows
from profiler.request import Request
from profiler.subject import Subject, failure
from profiler.treatments.measure import measured as with_technique
from profiler.ways import Eager
from roofline.run_head import Attributed
from roofline.together import parts
from specfiles.errors import InputError
from workloads.operators.collective import PATTERNS


def look_inside(request: Request, subject: Subject, measured: Measured, rows: Rows) -> None:
    """Trace the step and measure each of its operators alone."""
    point, where = measured.point, vars(measured.point)
    request.progress(f"trace: {in_words(point)}")
    trace = request.out / f"trace-{label(point)}.json.gz"
    with attending(request.attention):
        kernels = measured.way.trace(trace)
    rows.attended |= measured.way.attended
    on_device = request.device.startswith("cuda")
    rows.attributed.append(Attributed(**{**where, **shares(kernels, on_device=on_device)}))
    rows.notes.append(attributed_words(rows.attributed[-1], request.device))
    if kernels and (missing := measured.way.unrecorded):
        rows.notes.append(unrecorded_words(label(point), missing))
    rows.notes += _unfused(request, point, kernels)
    rows.tables["kernels"] += [{**where, **row} for row in kernels]
    for row in _techniques(request, subject, point, rows.notes):
        rows.tables["techniques"].append({**where, **row})
        rows.save(SAVE_EVERY_S)  # a technique may take as long as the step itself
    rows.tables["energy"] += [
        {**where, **row}
        for row in energy_rows(measured.way.once, rows.counter, request.device, in_words(point), rows.notes)
    ]
    if request.meetings and isinstance(measured.way, Eager):
        collectives = [n.name for n in described_at(request, point) if n.operator.kind in PATTERNS]
        met = request.meetings(subject, measured.way.run, collectives) if collectives else []
        rows.tables["arrivals"] += [{**where, **row} for row in met]
    if request.alone:
        request.progress("  operators alone")
        described, dtype = described_at(request, point), request.dtype
        found = alone(described, request.device, dtype, request.effort, request.progress)
        rows.tables["operators"] += [{**where, **row} for row in found]


def _unfused(request: Request, point: Point, kernels: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Operators of a step that ran as many operations because a fused kernel was missing."""
    described = {named.name: named for named in described_at(request, point)}
    packages = family(request.loaded.model).packages
    times = {name: described[parts(name, described)[0]].count for name in packages}
    return unfused_words(label(point), kernels, packages, times)


def _techniques(
    request: Request, subject: Subject, point: Point, notes: list[str]
) -> Iterator[dict[str, Any]]:
    """The step with and without each technique; one that fails has no row, and a note.

    Where processes share the model, only a failure of all of them is handled so: a process that fails alone
    leaves the others waiting in the middle of a step. On a lost device no other would have one either.
    """
    effort = replace(request.effort, budget_s=request.effort.budget_s / len(request.points))
    shared = request.tensor_parallel > 1
    together = request.together if shared else bool
    for technique in request.techniques:
        request.progress(f"  {technique.name}")
        try:
            row = with_technique(technique, subject, point, effort, together)
        except KERNEL_ERRORS as missing:
            if (shared and not isinstance(missing, InputError)) or not answers(request.device):
                raise
            notes.append(f"{technique.told()} not measured in {in_words(point)}: {failure(missing)}")
            continue
        if row is not None:
            notes.append(gain_words(label(point), row))
            yield row
