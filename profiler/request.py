"""The request of a profile, and the head of its run before measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwspecs import Device
from profiler.attending import AUTO, IN_MEMORY
from profiler.device_file import as_yaml
from profiler.environment import command_line, environment
from profiler.experts import AUTO as ANY_EXPERTS
from profiler.forward import Point
from profiler.repeats import EFFORT, Effort
from profiler.subject import Subject, convention_of
from roofline.run import Run, create_run
from roofline.run_head import Head
from specfiles.writing import write_text
from workloads.catalogue import Loaded
from workloads.techniques.base import Technique

# From a model, its step and the names of its collectives to rows of the table `arrivals`.
Meetings = Callable[[Subject, Callable[[Any], Any], Sequence[str]], list[dict[str, Any]]]


@dataclass
class Request:
    """What to profile, where, and with which effort."""

    loaded: Loaded
    device: str
    dtype: str
    points: tuple[Point, ...]
    out: Path
    hardware: Device | str  # the run's device file, or a name where there is none
    effort: Effort = EFFORT  # rounds, total time, and precision of medians
    seed: int = 0
    alone: bool = True
    techniques: tuple[Technique, ...] = ()  # to measure beside the plain steps
    progress: Callable[[str], None] = lambda _: None
    tensor_parallel: int = 1  # processes that share the model
    meetings: Meetings | None = None  # watches collectives, with several processes
    mode: str = "eager"  # eager, compile or graph
    attention: str = AUTO  # one of profiler.attending.CHOICES
    most_overhead: float | None = None  # of ranges: repeats go on until it is known on which side theirs is
    experts: str = ANY_EXPERTS  # one of profiler.experts.CHOICES
    together: Callable[[bool], bool] = bool  # logical and over all processes


def begun_head(hardware: Device | str, device: str, **fields: Any) -> Head:
    """The head of a run that begins now, of a device file or of a device without one."""
    return Head(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        device=hardware if isinstance(hardware, str) else hardware.name,
        environment=environment(device),
        **fields,
    )


def begun_run(out: Path, head: Head, hardware: Device | str) -> Run:
    """A new run folder, with the device file where there is one: reports need no other file."""
    run = create_run(out, head)
    if isinstance(hardware, Device):
        write_text(out / "device.yaml", as_yaml(hardware))
    return run


def head_of(request: Request, weights: str) -> Head:
    """The run's head before measuring; `weights` is their origin."""
    return begun_head(
        request.hardware,
        request.device,
        model=request.loaded.model.name,
        model_config_fields=request.loaded.config,
        weights=weights,
        phase=" ".join(dict.fromkeys(point.phase for point in request.points)),
        dtype=request.dtype,
        convention=convention_of(
            request.loaded.model, request.mode, scores_in_memory=request.attention in IN_MEMORY
        ),
        mode=request.mode,
        seed=request.seed,
        tensor_parallel=request.tensor_parallel,
    )


def check_request(request: Request) -> None:
    """Reject invalid requests before a model is built."""
    from profiler.attending import check_attention
    from profiler.experts import check_experts
    from profiler.memory import check_batches
    from profiler.ranges import check_eager
    from profiler.ranks.share import check_share
    from profiler.treatments.measure import treatment

    asked = {f"--mode {request.mode}": request.mode != "eager", "--with": bool(request.techniques)}
    check_eager(request.loaded.model, asked)
    check_batches(request.loaded.model, request.points)
    for technique in request.techniques:
        phases = [point.phase for point in request.points]
        treatment(
            technique,
            request.device,
            request.dtype,
            phases,
            shared=request.tensor_parallel > 1,
            two_stacks=request.loaded.model.has_memory,
        )
    check_share(request.loaded.model, request.tensor_parallel, [point.batch for point in request.points])
    check_attention(request.attention, request.loaded.model, request.device)
    check_experts(request.experts, request.loaded.model)
