"""One step under torch.profiler: the raw trace, and the time of each kernel by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.instrument import instrumented
from profiler.recorders import Trace
from profiler.subject import greedy
from specfiles.errors import InputError
from specfiles.writing import atomic

if TYPE_CHECKING:
    from profiler.subject import Subject

UNATTRIBUTED = ""  # the operator of time outside all ranges


def trace_step(
    subject: Subject,
    run: Callable[[Any], Any],
    path: Path,
    heard: Callable[[Any], object] = lambda events: None,
) -> list[dict[str, Any]]:
    """Trace one step into `path` and return a row per operator and kernel: count and seconds.

    On CUDA a kernel's time is the device's; on a CPU it is the self time of each torch operation.
    """
    from torch.profiler import ProfilerActivity, profile

    recorder = Trace()
    activities = [ProfilerActivity.CPU]
    if subject.device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    with (
        instrumented(subject, recorder, greedy) as watched,
        profile(activities=activities, acc_events=True) as traced,
    ):
        run(watched.sampler)
    keep(traced, path)
    heard(traced.events())
    return _kernels(traced.events(), recorder.names, on_device=len(activities) > 1)


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


def _kernels(events: Any, ranges: set[str], on_device: bool) -> list[dict[str, Any]]:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for event in events:
        if on_device:
            for kernel in launched(event, ranges):
                key = (innermost(event, ranges), kernel.name)
                seconds[key] += kernel.duration * 1e-6
                counts[key] += 1
        elif event.name not in ranges and event.self_cpu_time_total > 0:
            key = (enclosing(event, ranges), event.name)
            seconds[key] += event.self_cpu_time_total * 1e-6
            counts[key] += 1
    return [
        {"operator": operator, "name": name, "count": counts[operator, name], "time_s": total}
        for (operator, name), total in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def launched(event: Any, ranges: set[str]) -> list[Any]:
    """The kernels that an event launched itself, without our ranges' copies on the device."""
    return [kernel for kernel in event.kernels if kernel.name not in ranges]


def innermost(event: Any, ranges: set[str]) -> str:
    """The range that an event is or is in: kernels without a torch operation are attached to the range."""
    return str(event.name) if event.name in ranges else enclosing(event, ranges)


def enclosing(event: Any, ranges: set[str]) -> str:
    """The innermost of our ranges around an event."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in ranges:
            return str(parent.name)
        parent = parent.cpu_parent
    return UNATTRIBUTED
