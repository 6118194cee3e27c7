"""Trace steps with torch.profiler, and write the raw traces."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.environment import shares_steps
from profiler.forward import greedy
from profiler.instrument import instrumented
from profiler.kernel_times import as_table, by_range, device_events, without_records
from profiler.recorders import Trace
from specfiles.errors import InputError
from specfiles.writing import atomic

if TYPE_CHECKING:
    from profiler.subject import Subject

MOST_TRACES = 3
MOST_STEPS = 7  # on a host
ENOUGH_S = 1.0  # of these together: waits for a processor spread evenly over long steps


def traced(
    device: str,
    run: Callable[[], Any],
    path: Path | None = None,
    before: Callable[[], Any] | None = None,
) -> Any:
    """The events of one run under torch.profiler, also written as a trace to `path` if given.

    On CUDA `before`, by default the run itself, goes ahead in the profiler's warm-up, of which nothing is
    recorded: CUPTI of CUDA 12.6.2 to 13.0 gives the first kernels of a session times before its begin, and
    those are dropped (pytorch/pytorch#192021).
    """
    return _kept(_profiled(device, run, before), path)


def traced_whole(device: str, run: Callable[[], Any], path: Path | None = None) -> Any:
    """`traced`, repeated while the trace lacks kernels of launches, which CUPTI loses now and then.

    Where it has none at all, as under another profiler, it would have none again. On a host, the shortest
    step of several: torch.profiler reads the wall clock, so that a wait for a processor is part of the
    operation in which it falls.
    """
    if not device.startswith("cuda"):
        return _kept(_shortest(device, run), path)
    for _ in range(MOST_TRACES):
        events = traced(device, run, path)
        if not without_records(events) or next(device_events(events), None) is None:
            break
    return events


def _shortest(device: str, run: Callable[[], Any]) -> Any:
    """The profiler of the step that waited least.

    Of processes that run steps together each traces one: how many are enough differs between them.
    """
    most = 1 if shares_steps() else MOST_STEPS
    steps: list[tuple[float, Any]] = []
    while len(steps) < most and sum(length for length, _ in steps) < ENOUGH_S:
        found = _profiled(device, run)
        steps.append((sum(event.self_cpu_time_total for event in found.events()) * 1e-6, found))
    return min(steps, key=itemgetter(0))[1]


def _profiled(device: str, run: Callable[[], Any], before: Callable[[], Any] | None = None) -> Any:
    """The profiler after one run."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    found = profile(activities=activities, acc_events=True)
    found.prepare_trace()
    try:
        try:
            if on_cuda:
                (before or run)()
                torch.cuda.synchronize(device)  # kernels launched before are not the run's
        finally:
            found.start_trace()  # PyTorch refuses to end, or warns of, a session that never began
        run()
    finally:
        found.stop_trace()
    return found


def _kept(profiled: Any, path: Path | None) -> Any:
    if path is not None:
        keep(profiled, path)
    return profiled.events()


def traced_in_ranges(
    subject: Subject, run: Callable[[Any], Any], path: Path | None = None
) -> tuple[Any, set[str]]:
    """The events of one step under ranges, and the ranges' names."""
    recorder = Trace()
    with instrumented(subject, recorder, greedy) as watched:
        return traced_whole(subject.device, lambda: run(watched.sampler), path), recorder.names


def trace_step(
    subject: Subject,
    run: Callable[[Any], Any],
    path: Path,
    heard: Callable[[Any], object] = lambda events: None,
) -> list[dict[str, Any]]:
    """Trace one step into `path` and return a row per operator and kernel: count and seconds."""
    events, ranges = traced_in_ranges(subject, run, path)
    heard(events)
    return as_table(by_range(events, ranges, on_device=subject.device.startswith("cuda")))


def keep(traced: Any, path: Path) -> None:
    """Write the profiler's trace; InputError where it is incomplete on disk."""
    with atomic(path) as draft:
        traced.export_chrome_trace(str(draft))
        _check_whole(draft, path)


def _check_whole(draft: Path, path: Path) -> None:
    """InputError where the trace lacks its end: the profiler does not report a full disk."""
    from isal import igzip

    end = b""
    with igzip.open(draft, "rb") as trace:
        while block := trace.read(1 << 20):
            end = (end + block)[-64:]
    if not end.rstrip().endswith(b"}"):
        raise InputError(
            f"{path}: was cut short while it was written, most likely by a full disk; make room."
        )
