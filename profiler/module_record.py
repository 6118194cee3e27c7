"""Profile a user's module: its traced operators and their times, in a run independent of its code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs import Device
from profiler.allocator import keep_freed_memory
from profiler.alone import alone
from profiler.device_file import as_yaml
from profiler.environment import command_line, environment
from profiler.module_run import Watch, distinct, quiet_inputs, time_passes, warm_passes, watch
from profiler.module_trace import TracePass, trace
from profiler.noting import label, repeated_words
from profiler.overhead import overhead
from profiler.power import PowerMonitor, clocks, throttling
from profiler.references import ReferenceStep, reference_steps
from profiler.repeats import EFFORT, NOT_OVER, WARM_UP_S, Effort, Sample, sample
from profiler.steps import Timed, step_rows
from profiler.subject import Point, out_of_memory
from roofline.run import Run, create_run
from roofline.run_head import Head, Overhead
from roofline.run_tables import TABLES
from roofline.traced import table_rows
from specfiles.errors import InputError
from specfiles.writing import write_text
from workloads.convention import CONVENTIONS
from workloads.operators.traced import Traced

if TYPE_CHECKING:
    from workloads.phases import Named

PASS = Point(
    "prefill", 1, 1, 1
)  # a module has no sizes of its own: its one pass is recorded as a prompt of one token
CONVENTION = "eager"
SAVE_EVERY_S = 10.0


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
    run = create_run(request.out, _head(request, traced))
    if isinstance(request.hardware, Device):  # stored with the run, so that reports need no other file
        write_text(request.out / "device.yaml", as_yaml(request.hardware))
    _save(run, {"traced": table_rows(described)})
    notes = [*traced.notes, *_notes(watched, described)]
    reference = _reference(request, traced.dtype, notes)
    with PowerMonitor(request.device) as power:
        passes = _Passes(began=power.begin)
        failure = _measure(request, watched, passes, reference, run)
    costs, samples = [overhead(PASS, passes.timed)] if passes.begun else [], power.samples()
    tables = _tables(watched, passes, reference)
    if passes.begun:
        whole, where = passes.whole, label(PASS)
        notes += repeated_words(where, whole, passes.timed, passes.began, by_wall=False)
    if request.alone and failure is None:
        tables["operators"] += _alone(request, described)
    _save(run, {**tables, "power": samples})
    notes += [*power.notes, *clocks(samples), *throttling(samples)]
    if failure is not None:
        reason = f"stopped: {type(failure).__name__}: {failure}"
        run.write_head(status="failed", notes=[*notes, reason], overheads=costs)
        raise failure
    notes.append(_cost(costs[0]))
    return run.write_head(status="complete", notes=notes, overheads=costs)


@dataclass
class _Passes:
    """The passes so far."""

    began: float  # the zero of times
    timed: Timed = field(default_factory=Timed)
    warm_ups: int = 0
    ended: str = NOT_OVER

    @property
    def begun(self) -> bool:
        """Whether there is a pass of each kind."""
        return bool(self.timed.plain and self.timed.ranged)

    @property
    def whole(self) -> Sample:
        """Statistics of the plain passes."""
        return sample(self.timed.plain, self.warm_ups, self.ended)


@dataclass
class _Reference:
    """The reference step timed with the module, and its times so far."""

    step: ReferenceStep
    timed: Timed = field(default_factory=Timed)


def _reference(request: ModuleRequest, dtype: str, notes: list[str]) -> _Reference | None:
    """The reference step of a prompt in the module's format; a note says why there is none."""
    import torch

    try:
        with torch.inference_mode():
            steps = list(reference_steps(request.device, dtype))
    except InputError as reason:
        notes.append(f"no reference steps were run: {reason}")
        return None
    except Exception as error:
        if not out_of_memory(error):
            raise
        notes.append("no reference steps were run: they found no place in memory beside the module")
        return None
    return _Reference(next(step for step in steps if step.point.phase == PASS.phase))


def _measure(
    request: ModuleRequest, watched: Watch, passes: _Passes, reference: _Reference | None, run: Run
) -> BaseException | None:
    """Add passes, saved periodically, until the effort ends; returns the error that stopped it earlier."""
    import torch

    effort, begin = request.effort, time.perf_counter()
    saved = begin
    try:
        passes.warm_ups = warm_passes(watched, lambda: time.perf_counter() - begin >= WARM_UP_S)
        for repeat, passes.timed in enumerate(time_passes(watched), 1):
            request.progress(f"pass {repeat}, at most {effort.repeats}")
            if reference:
                with torch.inference_mode():
                    reference.step.time(reference.timed)
            now = time.perf_counter()
            if ended := effort.ended(passes.timed.plain, now - begin):
                passes.ended = ended
                break
            if now - saved > SAVE_EVERY_S:
                _save(run, _tables(watched, passes, reference))
                saved = now
    except BaseException as error:  # keep measurements after an interrupt, too
        return error
    return None


def _head(request: ModuleRequest, traced: TracePass) -> Head:
    return Head(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        model=request.target,
        model_config_fields={},
        weights=f"as {request.target} makes them",
        phase=PASS.phase,
        dtype=traced.dtype,
        convention=CONVENTION,
        mode="eager",
        device=request.hardware if isinstance(request.hardware, str) else request.hardware.name,
        environment=environment(request.device),
        seed=request.seed,
    )


def _notes(watched: Watch, described: Sequence[Named]) -> list[str]:
    """Notes on where the pass on the device differs from the traced one, and on its inputs."""
    counts = watched.counts
    notes = [
        f"{entry.name} ran {counts[entry.name]} times, {entry.count} times in the trace"
        for entry in described
        if counts[entry.name] not in (0, entry.count)  # validate lists those that did not run at all
    ]
    if quiet_inputs(watched.source):
        notes.append("an input holds one value throughout, which a GPU may multiply faster than real data")
    return notes


def _cost(cost: Overhead) -> str:
    return (
        f"watching changes the pass by {cost.fraction:+.1%} ({cost.low:+.1%} to {cost.high:+.1%} at 95 %), "
        "between the operators: each is timed by itself"
    )


def _save(run: Run, tables: dict[str, list[dict[str, Any]]]) -> None:
    import pandas as pd

    for name, rows in tables.items():
        if rows:
            run.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))


def _alone(request: ModuleRequest, described: Sequence[Named]) -> list[dict[str, Any]]:
    """Measure alone the operators that have reference kernels; of others only bytes are known."""
    request.progress("operators alone")
    known = [entry for entry in described if not isinstance(entry.operator, Traced)]
    found = alone(known, request.device, None, request.effort, request.progress)
    return [{**vars(PASS), **row} for row in found]


def _tables(watched: Watch, passes: _Passes, reference: _Reference | None) -> dict[str, list[dict[str, Any]]]:
    """Rows of whole passes, of each operator of a pass, and of the reference step, if any."""
    if not passes.begun:
        return {}
    counts = watched.counts
    operators = [
        {
            "name": name,
            "kind": watched.kinds[name],
            "where": "model",
            "count": counts[name],
            **sample([total / counts[name] for total in totals]).row(),
        }
        for name, totals in passes.timed.ranges.items()
    ]
    steps = step_rows(passes.timed, passes.whole, passes.began)
    tables = {**steps, "operators": operators, "references": _reference_rows(reference)}
    return {name: [{**row, **vars(PASS)} for row in rows] for name, rows in tables.items()}


def _reference_rows(reference: _Reference | None) -> list[dict[str, Any]]:
    if reference is None or not reference.timed.ranged:
        return []
    layers, whole = sample(reference.timed.in_layers).median_s, sample(reference.timed.ranged)
    return [{**reference.step.identity, **whole.row(), "layers_s": layers}]
