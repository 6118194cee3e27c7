"""Profile a model: whole steps with and without ranges, a trace, and each operator alone."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwspecs import Device
from profiler.allocator import keep_freed_memory
from profiler.alone import alone
from profiler.attending import AUTO, IN_MEMORY, attending, set_attention
from profiler.ceilings import as_yaml
from profiler.energy import Counter, energy_rows, open_counter
from profiler.environment import command_line, environment
from profiler.kernel_times import shares
from profiler.kernels import KERNEL_ERRORS
from profiler.noting import (
    attention_words,
    attributed_words,
    compiled_words,
    gain_words,
    in_words,
    label,
    overhead_words,
    repeated_words,
    unfused_words,
)
from profiler.overhead import overhead
from profiler.parts.base import FRAMEWORK
from profiler.power import PowerMonitor, clocks, throttling
from profiler.ranges import family
from profiler.recorders import nvtx_installed
from profiler.references import ReferenceStep, reference_steps
from profiler.repeats import EFFORT, NOT_OVER, WARM_UP_S, Effort, Sample, sample, warm_up
from profiler.steps import Timed, operators_at, step_rows
from profiler.subject import Point, Subject, convention_of, failure, load_subject, out_of_memory
from profiler.timing import laps
from profiler.treatments.measure import TREATMENTS
from profiler.treatments.measure import measured as with_technique
from profiler.ways import WAYS, Eager, Way
from roofline.run import Run, create_run
from roofline.run_head import Attributed, Compilation, Head, Overhead
from roofline.run_tables import TABLES
from roofline.together import parts
from specfiles.errors import InputError
from specfiles.writing import write_text
from workloads.catalogue import Loaded
from workloads.dtypes import Precision
from workloads.operators.collective import PATTERNS
from workloads.phases import Named, Setting
from workloads.techniques.base import Technique

# From a model, its step and the names of its collectives to the rows of table `arrivals`.
Meetings = Callable[[Subject, Callable[[Any], Any], Sequence[str]], list[dict[str, Any]]]
SAVE_EVERY_S = 10.0
TOGETHER_BYTES = 1e9  # KV caches of points that are measured in turn; what needs more is measured after them


@dataclass
class Request:
    """What to profile, and how long."""

    loaded: Loaded
    device: str
    dtype: str
    points: tuple[Point, ...]
    out: Path
    hardware: Device | str  # the file that the run belongs to, or a name where there is none
    effort: Effort = EFFORT  # rounds of steps, time for them all, and how well to know their medians
    seed: int = 0
    alone: bool = True
    techniques: tuple[Technique, ...] = ()  # to measure beside the plain steps
    progress: Callable[[str], None] = lambda _: None
    tensor_parallel: int = 1  # processes that share the model
    meetings: Meetings | None = None  # how collectives are watched, where there are several processes
    mode: str = "eager"  # eager, compile or graph
    attention: str = AUTO  # what shall compute it, of profiler.attending.CHOICES
    together: Callable[[bool], bool] = bool  # whether something is true in every process


Tables = dict[str, list[dict[str, Any]]]


@dataclass
class _Rows:
    """Tables as they grow; written to the run now and then, so that a stop loses seconds."""

    run: Run
    tables: Tables = field(default_factory=lambda: {name: [] for name in TABLES})
    notes: list[str] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)
    compilations: list[Compilation] = field(default_factory=list)
    attributed: list[Attributed] = field(default_factory=list)
    attended: set[str] = field(default_factory=set)
    under_way: list[_Measured] = field(default_factory=list)
    counter: Counter | None = None  # of the device's energy
    began: float = field(default_factory=time.perf_counter)  # the zero of times
    saved: float = float("-inf")

    def close(self) -> None:
        """Points that were under way are measured."""
        for measured in self._begun():
            cost = overhead(measured.point, measured.timed)
            self.overheads.append(cost)
            self.notes.append(overhead_words(cost, measured.way.watching))
            if (compilation := measured.way.compilation) is not None:
                self.compilations.append(compilation)
                self.notes.append(compiled_words(compilation))
            self.notes += repeated_words(
                label(measured.point),
                measured.whole,
                measured.timed,
                self.began,
                by_wall=measured.way.by_wall,
            )
        self.tables, self.under_way = self._grown(), []

    def save(self, every_s: float = 0.0) -> None:
        """Write every table as far as it has grown, unless that was done just before."""
        import pandas as pd

        if time.monotonic() - self.saved < every_s:
            return
        for name, rows in self._grown().items():
            if rows:
                self.run.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))
        self.saved = time.monotonic()

    def stopped(self, error: BaseException) -> None:
        """Keep what was measured, as far as it can be written, and say what ended it."""
        self.close()
        self.notes.append(f"stopped: {type(error).__name__}: {error}")
        with suppress(Exception):  # a disk that was full still is
            self.save()
        with suppress(Exception):
            self.run.write_head(status="failed", **self.facts())

    def facts(self) -> dict[str, Any]:
        """What the tables do not hold, as fields of the run's head."""
        return {
            "notes": self.notes,
            "overheads": self.overheads,
            "compilations": self.compilations,
            "attributed": self.attributed,
            "attention": ", ".join(sorted(self.attended)),
        }

    def _begun(self) -> list[_Measured]:
        return [measured for measured in self.under_way if measured.timed.plain and measured.timed.ranged]

    def _grown(self) -> Tables:
        grown = {name: list(rows) for name, rows in self.tables.items()}
        for measured in self._begun():
            for name, rows in _point_rows(measured, self.began).items():
                grown[name] += rows
        return grown


def profile(request: Request) -> Run:
    """Measure every point into a new run folder and return the run.

    Nothing is written before the model is loaded. What was measured stays readable when a later point
    fails: the run is then marked failed, with the reason among its notes.
    """
    import torch

    keep_freed_memory()
    family(request.loaded.model)  # whose parts are not known cannot be put into ranges
    configs = _configs(request)
    with torch.inference_mode():
        subject = load_subject(
            request.loaded, request.device, request.dtype, request.seed, request.tensor_parallel
        )
        set_attention(subject, request.attention)
        run = create_run(request.out, head_of(request, subject.weights))
        if isinstance(request.hardware, Device):  # kept with the run, so that reports need nothing else
            write_text(request.out / "device.yaml", as_yaml(request.hardware))
        for name, fields in configs.items():
            write_text(request.out / name, json.dumps(fields, indent=1) + "\n")
        rows = _Rows(run, counter=_counter(request))
        try:
            with PowerMonitor(request.device) as power:
                rows.began = power.begin
                references = _references(request, rows)
                groups = _groups(request)
                for number, group in enumerate(groups):
                    left_s = request.effort.budget_s - (time.perf_counter() - power.begin)
                    share = replace(request.effort, budget_s=left_s / (len(groups) - number))
                    _measure_group(request, subject, group, references, rows, share)
                    rows.tables["power"] = power.samples()
                    rows.save()
        except BaseException as error:
            rows.stopped(error)
            if out_of_memory(error):
                raise InputError(f"out of memory; what was measured before is in {request.out}.") from None
            raise
    rows.notes.append(attention_words(subject.attention, request.attention, sorted(rows.attended)))
    rows.notes += [*power.notes, *clocks(rows.tables["power"]), *throttling(rows.tables["power"])]
    if not nvtx_installed():
        rows.notes.append("nvtx is not installed: no NVTX ranges were made; pip install nvtx")
    return run.write_head(status="complete", **rows.facts())


def _configs(request: Request) -> dict[str, dict[str, Any]]:
    """Configs of the other models that techniques run, by the file that keeps them."""
    found: dict[str, dict[str, Any]] = {}
    for technique in request.techniques:
        for name, fields in TREATMENTS[technique.name].configs(technique, request.loaded.model).items():
            if found.setdefault(name, fields) != fields:
                raise InputError(f"two draft models are named {name}; call one of the files otherwise.")
    return found


def head_of(request: Request, weights: str) -> Head:
    """What a run says of itself before anything is measured; `weights` says where they come from."""
    return Head(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        model=request.loaded.model.name,
        model_config_fields=request.loaded.config,
        weights=weights,
        phase=" ".join(dict.fromkeys(point.phase for point in request.points)),
        dtype=request.dtype,
        convention=convention_of(
            request.loaded.model, request.mode, scores_in_memory=request.attention in IN_MEMORY
        ),
        mode=request.mode,
        device=request.hardware if isinstance(request.hardware, str) else request.hardware.name,
        environment=environment(request.device),
        seed=request.seed,
        tensor_parallel=request.tensor_parallel,
    )


@dataclass
class _Measured:
    """A point ready to run, and its times and those of its reference step so far."""

    request: Request
    point: Point
    way: Way
    reference: ReferenceStep | None
    timed: Timed = field(default_factory=Timed)
    beside: Timed = field(default_factory=Timed)
    warm_ups: int = 0
    ended: str = ""  # why no more repeats were made

    @property
    def whole(self) -> Sample:
        """What the plain steps say."""
        return sample(self.timed.plain, self.warm_ups, self.ended or NOT_OVER)

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
        with attending(self.request.attention):  # the reference step attends as it did for the device file
            self.way.visit(self.timed)

    def time_reference(self) -> None:
        """The reference step alone, as after the last turn."""
        if self.reference:
            self.reference.time(self.beside)


def _counter(request: Request) -> Counter | None:
    """The energy counter, where it counts what this process does and no other process must keep step."""
    if request.tensor_parallel > 1 or (request.meetings and request.device == "cpu"):
        return None
    return open_counter(request.device)[0]  # why there is none, the power monitor says


def _references(request: Request, rows: _Rows) -> dict[str, ReferenceStep]:
    """Reference steps by phase; without them where they find no place beside the model."""
    try:
        return {made.point.phase: made for made in reference_steps(request.device, request.dtype)}
    except Exception as error:
        if not (isinstance(error, InputError) or out_of_memory(error)):
            raise
        rows.notes.append("no reference steps were run: they found no place in memory beside the model")
        return {}


def _groups(request: Request) -> list[list[Point]]:
    """Points in their order, as many together as their KV caches find place."""
    groups: list[list[Point]] = []
    held = float("inf")
    setting = Setting(Precision.of(request.dtype))
    for point in request.points:
        size = float(request.loaded.model.cache_bytes(point.batch, point.kv_len, setting))
        if held + size > TOGETHER_BYTES:
            groups.append([])
            held = 0.0
        groups[-1].append(point)
        held += size
    return groups


def _measure_group(
    request: Request,
    subject: Subject,
    points: Sequence[Point],
    references: Mapping[str, ReferenceStep],
    rows: _Rows,
    effort: Effort,
) -> None:
    """Measure points in turn, round by round: what the machine does meanwhile touches all of them alike."""
    for point in points:
        request.progress(in_words(point))
        with attending(request.attention):
            way = WAYS[request.mode](subject, point)
        rows.under_way.append(_Measured(request, point, way, references.get(point.phase)))
    gc.collect()
    for measured in rows.under_way:
        measured.warm_up()
    begin, turn, group = time.perf_counter(), 0, list(rows.under_way)
    while going := [measured for measured in group if not measured.ended]:
        turn += 1
        request.progress(f"round {turn}, at most {effort.repeats}")
        for measured in going:
            measured.time()
        for measured in going:
            ended = effort.ended(measured.timed.plain, time.perf_counter() - begin, turn)
            measured.ended = ended if request.together(bool(ended)) else ""
        rows.save(SAVE_EVERY_S)
    for measured in group:
        measured.time_reference()
    rows.close()
    for measured in group:
        _look_inside(request, subject, measured, rows)
        rows.save()


def _point_rows(measured: _Measured, began: float) -> Tables:
    """The rows of a point's steps, of the operators inside, and of the reference step beside it."""
    point, timed = measured.point, measured.timed
    steps = step_rows(timed, measured.whole, began)
    described = {n.name: n for n in _described(measured.request, point)}
    operators = []
    for name, totals in timed.ranges.items():
        together = [described[part] for part in parts(name, described) if part in described]
        kind = together[0].operator.kind if together else ""  # of operators in one range the first
        counts = {entry.count for entry in together}
        count = counts.pop() if len(counts) == 1 else 1  # of different counts: all of a step together
        each = sample([total / count for total in totals])
        where = "framework" if name.startswith(FRAMEWORK) else "model"
        operators.append({"name": name, "kind": kind, "where": where, "count": count, **each.row()})
    tables = {**steps, "operators": operators, "references": _reference_rows(measured)}
    return {name: [{**row, **vars(point)} for row in rows] for name, rows in tables.items()}


def _described(request: Request, point: Point) -> Sequence[Named]:
    """The operators of a point, as one process runs them."""
    return operators_at(request.loaded, request.dtype, point, request.tensor_parallel)


def _reference_rows(measured: _Measured) -> list[dict[str, Any]]:
    """The reference step beside a point, where there is one: whole, and the operators in its layers."""
    if not measured.reference:
        return []
    whole, layers = sample(measured.beside.ranged), sample(measured.beside.in_layers)
    return [{**measured.reference.identity, **whole.row(), "layers_s": layers.median_s}]


def _look_inside(request: Request, subject: Subject, measured: _Measured, rows: _Rows) -> None:
    """A trace of the step, and each of its operators by itself."""
    point, where = measured.point, vars(measured.point)
    request.progress(f"trace: {in_words(point)}")
    trace = request.out / f"trace-{label(point)}.json.gz"
    with attending(request.attention):
        kernels = measured.way.trace(trace)
    rows.attended |= measured.way.attended
    on_device = request.device.startswith("cuda")
    rows.attributed.append(Attributed(**{**where, **shares(kernels, on_device=on_device)}))
    rows.notes.append(attributed_words(rows.attributed[-1], request.device))
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
        collectives = [n.name for n in _described(request, point) if n.operator.kind in PATTERNS]
        met = request.meetings(subject, measured.way.run, collectives) if collectives else []
        rows.tables["arrivals"] += [{**where, **row} for row in met]
    if request.alone:
        request.progress("  operators alone")
        described, dtype = _described(request, point), request.dtype
        found = alone(described, request.device, dtype, request.effort, request.progress)
        rows.tables["operators"] += [{**where, **row} for row in found]


def _unfused(request: Request, point: Point, kernels: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Which operators of a step ran as many operations for want of a kernel."""
    described = {named.name: named for named in _described(request, point)}
    packages = family(request.loaded.model).packages
    times = {name: described[parts(name, described)[0]].count for name in packages}
    return unfused_words(label(point), kernels, packages, times)


def _techniques(
    request: Request, subject: Subject, point: Point, notes: list[str]
) -> Iterator[dict[str, Any]]:
    """The step with each technique beside the same without; one that fails loses its own row, with a note."""
    effort = replace(request.effort, budget_s=request.effort.budget_s / len(request.points))
    for technique in request.techniques:
        request.progress(f"  {technique.name}")
        try:
            row = with_technique(technique, subject, point, effort)
        except KERNEL_ERRORS as missing:
            notes.append(f"{technique.told()} not measured in {in_words(point)}: {failure(missing)}")
            continue
        if row is not None:
            notes.append(gain_words(label(point), row))
            yield row
