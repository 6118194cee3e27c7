"""Profile a user's module: its traced operators and their times, in a run independent of its code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs import Device
from profiler.allocator import keep_freed_memory
from profiler.alone import alone
from profiler.forward import Point
from profiler.interrupts import raise_swallowed
from profiler.measured_point import Repeats
from profiler.module_run import Watch, distinct, quiet_inputs, time_passes, warm_passes, watch
from profiler.module_trace import TracePass, trace
from profiler.noting import label, repeated_words
from profiler.power import PowerMonitor, clocks, throttling
from profiler.record_rows import SAVE_EVERY_S, stopped_words
from profiler.references import ReferenceStep, steps_beside
from profiler.repeats import EFFORT, WARM_UP_S, Effort, sample
from profiler.request import begun_head, begun_run
from profiler.steps import overhead, step_rows, why_ended
from reports.wording import counted, signed
from roofline.run import Run
from roofline.run_head import Head, Overhead
from roofline.traced import table_rows
from workloads.convention import CONVENTIONS
from workloads.operators.traced import Traced

if TYPE_CHECKING:
    from workloads.phases import Named

# A module has no sizes of its own: its one pass is recorded as a prompt of one token.
PASS = Point("prefill", 1, 1, 1)
CONVENTION = "eager"


@dataclass(frozen=True)
class ModuleRequest:
    """The module to profile, the device and the effort."""

    target: str
    device: str
    out: Path
    hardware: Device | str  # the run's device file, or a name where there is none
    effort: Effort = EFFORT
    seed: int = 0
    alone: bool = True
    progress: Callable[[str], None] = lambda _: None
    most_overhead: float | None = None  # as of a model's request


def profile_module(request: ModuleRequest) -> Run:
    """Measure one pass of `module:function` into a new run folder and return the run.

    Nothing is written before the module was traced and has run once; failures until then raise InputError. A
    later failure leaves the run with the measurements so far and the reason in its notes.
    """
    exact = CONVENTIONS[CONVENTION].causal_exact
    keep_freed_memory()
    request.progress("tracing it on the meta device")
    traced = trace(request.target, exact)
    request.progress(f"building it on {request.device}")
    watched = watch(request.target, request.device, traced.calls, exact, request.seed)
    described = distinct(traced.calls)
    run = begun_run(request.out, _head(request, traced), request.hardware)
    run.write_rows({"traced": table_rows(described)})
    notes = [*traced.notes, *_notes(watched, described)]
    with PowerMonitor(request.device) as power:
        passes = _Passes(watched, power.begin, _reference(request, traced.dtype, notes))
        failure = _measure(request, passes, run)
    costs, samples = [overhead(PASS, passes.timed)] if passes.begun else [], power.samples()
    tables = passes.tables()
    if passes.begun:
        whole, where = passes.whole, label(PASS)
        notes += repeated_words(where, whole, passes.timed, passes.began, by_wall=False)
    if request.alone and failure is None:
        tables["operators"] += _alone(request, described)
    run.write_rows({**tables, "power": samples})
    notes += [*power.notes, *clocks(samples), *throttling(samples)]
    if failure is not None:
        run.write_head(status="failed", notes=[*notes, stopped_words(failure)], overheads=costs)
        if isinstance(failure, KeyboardInterrupt):
            request.progress(f"interrupted; what was measured is in {request.out}")
        raise failure
    notes.append(_cost(costs[0]))
    return run.write_head(status="complete", notes=notes, overheads=costs)


@dataclass
class _Passes(Repeats):
    """The passes so far."""

    watched: Watch
    began: float  # the zero of times
    reference: ReferenceStep | None

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of whole passes, of each operator of a pass, and of the reference step, if any."""
        if not self.begun:
            return {}
        counts, kinds = self.watched.counts, self.watched.kinds
        operators = [
            {
                **{"name": name, "kind": kinds[name], "where": "model", "count": counts[name]},
                **sample([total / counts[name] for total in totals]).row(),
            }
            for name, totals in self.timed.ranges.items()
        ]
        tables = {
            **step_rows(self.timed, self.whole, self.began),
            "operators": operators,
            "references": self.reference.rows(self.beside) if self.reference else [],
        }
        return {name: [{**row, **vars(PASS)} for row in rows] for name, rows in tables.items()}


def _reference(request: ModuleRequest, dtype: str, notes: list[str]) -> ReferenceStep | None:
    """The reference step of a prompt in the module's format; a note says why there is none."""
    import torch

    with torch.inference_mode():
        return steps_beside(request.device, dtype, notes).get(PASS.phase)


def _measure(request: ModuleRequest, passes: _Passes, run: Run) -> BaseException | None:
    """Add passes, saved periodically, until the effort ends; returns the error that stopped it earlier."""
    import torch

    effort, watched, begin = request.effort, passes.watched, time.perf_counter()
    saved = begin
    try:
        passes.warm_ups = warm_passes(watched, lambda: time.perf_counter() - begin >= WARM_UP_S)
        for repeat, passes.timed in enumerate(time_passes(watched), 1):
            raise_swallowed()
            request.progress(f"pass {repeat}, at most {effort.repeats}")
            if passes.reference:
                with torch.inference_mode():
                    passes.reference.time(passes.beside)
            now = time.perf_counter()
            passes.ended = why_ended(effort, passes.timed, now - begin, request.most_overhead)
            if passes.ended:
                break
            if now - saved > SAVE_EVERY_S:
                run.write_rows(passes.tables())
                saved = now
    except BaseException as error:  # keep measurements after an interrupt, too
        return error
    return None


def _head(request: ModuleRequest, traced: TracePass) -> Head:
    return begun_head(
        request.hardware,
        request.device,
        model=request.target,
        model_config_fields={},
        weights=f"as {request.target} makes them",
        phase=PASS.phase,
        dtype=traced.dtype,
        convention=CONVENTION,
        mode="eager",
        seed=request.seed,
    )


def _notes(watched: Watch, described: Sequence[Named]) -> list[str]:
    """Notes on where the pass on the device differs from the traced one, and on its inputs."""
    counts = watched.counts
    notes = [
        f"{entry.name} ran {counted(counts[entry.name], 'time')}, "
        f"{counted(int(entry.count), 'time')} in the trace"
        for entry in described
        if counts[entry.name] not in (0, entry.count)  # validate lists those that did not run at all
    ]
    if quiet_inputs(watched.source):
        notes.append("an input holds one value throughout, which a GPU may multiply faster than real data")
    return notes


def _cost(cost: Overhead) -> str:
    return (
        f"watching changes the pass by {signed(cost.fraction)} "
        f"({signed(cost.low)} to {signed(cost.high)} at 95 %), between the operators: each is timed by itself"
    )


def _alone(request: ModuleRequest, described: Sequence[Named]) -> list[dict[str, Any]]:
    """Measure alone the operators that have reference kernels; of others only bytes are known."""
    request.progress("operators alone")
    known = [entry for entry in described if not isinstance(entry.operator, Traced)]
    found = alone(known, request.device, None, request.effort, request.progress)
    return [{**vars(PASS), **row} for row in found]
