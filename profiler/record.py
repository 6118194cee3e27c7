"""Profile a model: steps with and without ranges, a trace, and each operator alone."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from profiler.allocator import keep_freed_memory
from profiler.attending import attending, set_attention
from profiler.energy import Counter, open_counter
from profiler.experts import experts_words, set_experts
from profiler.forward import Point, check_runs
from profiler.inside import look_inside
from profiler.interrupts import raise_swallowed
from profiler.measured_point import Measured
from profiler.noting import attention_words, in_words
from profiler.power import PowerMonitor, clocks, throttling
from profiler.ranges import family
from profiler.record_rows import SAVE_EVERY_S, Rows
from profiler.recorders import nvtx_installed
from profiler.references import ReferenceStep, steps_beside
from profiler.repeats import Effort
from profiler.request import Request, begun_run, head_of
from profiler.steps import why_ended
from profiler.subject import Subject, device_fault, load_subject, out_of_memory, why_separate
from profiler.treatments.measure import TREATMENTS
from profiler.ways import WAYS
from roofline.run import Run
from specfiles.errors import InputError, reason
from specfiles.writing import write_text
from workloads.dtypes import Precision
from workloads.phases import Setting

TOGETHER_BYTES = 1e9  # KV caches of points measured in turn; further points form the next group


def profile(request: Request) -> Run:
    """Measure every point into a new run folder and return the run.

    Nothing is written before the model is loaded and has run. Measurements stay readable when a later point
    fails: the run is then marked failed, with the reason in its notes.
    """
    import torch

    keep_freed_memory()
    family(request.loaded.model)  # raises InputError for families without ranges
    configs = _configs(request)
    with torch.inference_mode():
        subject = load_subject(
            request.loaded, request.device, request.dtype, request.seed, request.tensor_parallel
        )
        set_attention(subject, request.attention)
        set_experts(subject, request.experts)
        with attending(request.attention):
            check_runs(subject, request.points[0].encoder_len)
        run = begun_run(request.out, head_of(request, subject.weights), request.hardware)
        for name, fields in configs.items():
            write_text(request.out / name, json.dumps(fields, indent=1) + "\n")
        counter, uncounted = _counter(request)
        rows = Rows(run, counter=counter)
        try:
            with PowerMonitor(request.device) as power:
                rows.began = power.begin
                references = steps_beside(request.device, request.dtype, rows.notes)
                groups = _groups(request)
                for number, group in enumerate(groups):
                    left_s = request.effort.budget_s - (time.perf_counter() - power.begin)
                    share = replace(request.effort, budget_s=left_s / (len(groups) - number))
                    _measure_group(request, subject, group, references, rows, share)
                    rows.tables["power"] = power.samples()
                    rows.save()
        except BaseException as error:
            rows.stopped(error)
            if isinstance(error, KeyboardInterrupt):
                request.progress(f"interrupted; what was measured is in {request.out}")
            before = f"{rows.doing}; what was measured before is in {request.out}."
            if out_of_memory(error):
                raise InputError(f"out of memory in {before}") from None
            if device_fault(error):
                raise InputError(
                    f"{request.device} failed ({reason(error).rstrip('.')}) in {before}"
                ) from None
            raise
    why = why_separate(request.loaded.model)
    rows.notes.append(attention_words(subject.attention, request.attention, sorted(rows.attended), why))
    rows.notes += filter(None, [experts_words(subject, [point.phase for point in request.points])])
    rows.notes += power.notes or filter(None, [uncounted])  # the monitor says it, too, where NVML is missing
    rows.notes += [*clocks(rows.tables["power"]), *throttling(rows.tables["power"])]
    if not nvtx_installed():
        rows.notes.append("nvtx is not installed: no NVTX ranges were made; pip install nvtx")
    return run.write_head(status="complete", **rows.facts())


def _configs(request: Request) -> dict[str, dict[str, Any]]:
    """Configs of other models that techniques run, by file name in the run."""
    found: dict[str, dict[str, Any]] = {}
    for technique in request.techniques:
        for name, fields in TREATMENTS[technique.name].configs(technique, request.loaded.model).items():
            if found.setdefault(name, fields) != fields:
                raise InputError(f"two draft models are named {name}; call one of the files otherwise.")
    return found


def _counter(request: Request) -> tuple[Counter | None, str]:
    """The energy counter, where it counts this process's work and no other process runs in step with it.

    Without one, the reason where the device has none.
    """
    if request.tensor_parallel > 1 or (request.meetings and request.device == "cpu"):
        return None, ""
    return open_counter(request.device)


def _groups(request: Request) -> list[list[Point]]:
    """Points in their order, grouped up to TOGETHER_BYTES of KV caches."""
    groups: list[list[Point]] = []
    held = float("inf")
    setting = Setting(Precision.of(request.dtype))
    for point in request.points:
        size = float(request.loaded.model.cache_bytes(point.batch, point.kv_len, setting, point.encoder_len))
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
    rows: Rows,
    effort: Effort,
) -> None:
    """Measure points in turn, round by round, so that drift of the machine affects all alike.

    Where one cannot be made ready, those before it are measured before its error is raised.
    """
    unready = _make_ready(request, subject, points, references, rows)
    gc.collect()
    group = list(rows.under_way)
    for measured in group:
        rows.doing = in_words(measured.point)
        measured.warm_up()
    begin, turn = time.perf_counter(), 0
    while going := [measured for measured in group if not measured.ended]:
        raise_swallowed()
        turn += 1
        request.progress(f"round {turn}, at most {effort.repeats}")
        for measured in going:
            rows.doing = in_words(measured.point)
            measured.time()
        for measured in going:
            spent_s = time.perf_counter() - begin
            ended = why_ended(effort, measured.timed, spent_s, request.most_overhead, turn)
            measured.ended = ended if request.together(bool(ended)) else ""
        rows.save(SAVE_EVERY_S)
    for measured in group:
        measured.time_reference()
    rows.close()
    for measured in group:
        rows.doing = in_words(measured.point)
        look_inside(request, subject, measured, rows)
        rows.save()
    if unready is not None:
        point, error = unready
        rows.doing = in_words(point)
        raise error


def _make_ready(
    request: Request,
    subject: Subject,
    points: Sequence[Point],
    references: Mapping[str, ReferenceStep],
    rows: Rows,
) -> tuple[Point, Exception] | None:
    """Add points to `rows.under_way`, up to the first that cannot be made ready; returns it and its error.

    Raises the error where no point is ready, or where processes share the model: each must measure as many.
    """
    try:
        for point in points:
            rows.doing = in_words(point)
            request.progress(rows.doing)
            with attending(request.attention):
                way = WAYS[request.mode](subject, point)
            rows.under_way.append(Measured(request, point, way, references.get(point.phase)))
    except Exception as error:
        if not rows.under_way or request.together is not bool:
            raise
        memory = out_of_memory(error)  # which the frames of its traceback hold
        return point, error.with_traceback(None if memory else error.__traceback__)
    return None
