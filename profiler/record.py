"""Profile a model: whole steps with and without ranges, a trace, and each operator alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwspecs import Device
from profiler.allocator import keep_freed_memory
from profiler.ceilings import COLD_FACTOR, as_yaml
from profiler.environment import command_line, environment, last_level_cache_bytes
from profiler.kernels import TOLERANCE, Place, company, kernel
from profiler.power import PowerMonitor, throttling
from profiler.ranges import family
from profiler.recorders import nvtx_installed
from profiler.steps import operators_at, time_ranges
from profiler.subject import Point, Subject, load_subject, out_of_memory, step
from profiler.timing import Sample, measure, sample
from profiler.traced import trace_step
from roofline.run import TABLES, Head, Run, create_run
from specfiles.errors import InputError
from specfiles.writing import write_text
from workloads.catalogue import Loaded

DECODE_REPEATS = 4  # decode steps are short, and the cost of ranges shows in them only over many


@dataclass
class Request:
    """What to profile, and how long."""

    loaded: Loaded
    device: str
    dtype: str
    points: tuple[Point, ...]
    out: Path
    hardware: Device | str  # the file that the run belongs to, or a name where there is none
    repeats: int = 15
    seed: int = 0
    alone: bool = True
    progress: Callable[[str], None] = lambda _: None


@dataclass
class _Rows:
    """Tables as they grow; written to the run after each point, so that a stop loses one point."""

    run: Run
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TABLES})
    notes: list[str] = field(default_factory=list)

    def save(self) -> None:
        import pandas as pd

        for name, rows in self.tables.items():
            if rows:
                self.run.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))


def profile(request: Request) -> Run:
    """Measure every point into a new run folder and return the run.

    Nothing is written before the model is loaded. What was measured stays readable when a later point
    fails: the run is then marked failed, with the reason among its notes.
    """
    import torch

    keep_freed_memory()
    family(request.loaded.model)  # whose parts are not known cannot be put into ranges
    with torch.inference_mode():
        subject = load_subject(request.loaded, request.device, request.dtype, request.seed)
        run = create_run(request.out, _head(request, subject))
        if isinstance(request.hardware, Device):  # kept with the run, so that reports need nothing else
            write_text(request.out / "device.yaml", as_yaml(request.hardware))
        rows = _Rows(run)
        try:
            with PowerMonitor(request.device) as power:
                for point in request.points:
                    request.progress(
                        f"{point.phase}: batch {point.batch}, {point.q_len} of {point.kv_len} tokens"
                    )
                    _measure_point(request, subject, point, rows)
                    rows.tables["power"] = power.samples()
                    rows.save()
        except BaseException as error:
            rows.save()
            reason = f"stopped: {type(error).__name__}: {error}"
            run.write_head(status="failed", notes=[*rows.notes, reason])
            if out_of_memory(error):
                raise InputError(f"out of memory; what was measured before is in {request.out}.") from None
            raise
    rows.notes += throttling(rows.tables["power"])
    if not nvtx_installed():
        rows.notes.append("nvtx is not installed: no NVTX ranges were made; pip install nvtx")
    return run.write_head(status="complete", notes=rows.notes)


def _head(request: Request, subject: Subject) -> Head:
    return Head(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        model=request.loaded.model.name,
        model_config_fields=request.loaded.config,
        weights=subject.weights,
        phase=" ".join(dict.fromkeys(point.phase for point in request.points)),
        dtype=request.dtype,
        convention="eager",
        mode="eager",
        device=request.hardware if isinstance(request.hardware, str) else request.hardware.name,
        environment=environment(request.device),
        seed=request.seed,
    )


def _measure_point(request: Request, subject: Subject, point: Point, rows: _Rows) -> None:
    run = step(subject, point, point.kv_len)
    gc.collect()
    repeats = request.repeats * (DECODE_REPEATS if point.phase == "decode" else 1)
    timed = time_ranges(subject, run, repeats, plain_too=True)
    where = vars(point)
    rows.notes.append(f"ranges change the step {_label(point)} by {timed.overhead:+.1%}")
    for with_ranges, times in ((False, timed.plain), (True, timed.ranged)):
        rows.tables["steps"].append({**where, "instrumented": with_ranges, **_quartiles(sample(times))})
    described = {named.name: named for named in operators_at(request.loaded, request.dtype, point)}
    for name, totals in timed.ranges.items():
        known = described.get(name)
        kind, count = (known.operator.kind, known.count) if known else ("", 1)
        each = sample([total / count for total in totals])
        rows.tables["operators"].append(
            {**where, "name": name, "kind": kind, "where": "model", "count": count, **_quartiles(each)}
        )
    request.progress("  trace")
    rows.tables["kernels"] += [
        {**where, **row} for row in trace_step(subject, run, request.out / f"trace-{_label(point)}.json.gz")
    ]
    if request.alone:
        request.progress("  operators alone")
        rows.tables["operators"] += [{**where, **row} for row in _alone(request, point)]


def _alone(request: Request, point: Point) -> list[dict[str, Any]]:
    """Every operator as a reference kernel by itself, with cold weights, checked before it is timed."""
    cold = COLD_FACTOR * last_level_cache_bytes(request.device)
    place = Place(request.device, request.dtype, cold)
    between = company(place)
    rows = []
    for named in operators_at(request.loaded, request.dtype, point):
        try:
            error = kernel(named.operator, Place(request.device, request.dtype)).error()
            if not error <= TOLERANCE[request.dtype]:
                raise InputError(f"deviates by {error:.2g} from fp64")
            call = kernel(named.operator, place).run
            timed = measure(call, request.device, between=between, repeats=4 * request.repeats, budget_s=0.5)
        except Exception as missing:  # one kernel's failure loses its own row and no other
            if not (isinstance(missing, InputError) or out_of_memory(missing)):
                raise
            reason = missing if isinstance(missing, InputError) else "out of memory"
            request.progress(f"  {named.name} not measured alone: {reason}")
            continue
        rows.append(
            {
                "name": named.name,
                "kind": named.operator.kind,
                "where": "alone",
                "count": named.count,
                **_quartiles(timed),
            }
        )
    return rows


def _quartiles(timed: Sample) -> dict[str, Any]:
    return {name: getattr(timed, name) for name in ("repeats", "median_s", "q25_s", "q75_s")}


def _label(point: Point) -> str:
    return f"{point.phase}-{point.batch}x{point.q_len}of{point.kv_len}"
