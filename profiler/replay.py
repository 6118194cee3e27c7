"""Steps of a model under NVTX ranges only, for Nsight Systems and Nsight Compute.

No clocks, events or torch.profiler run with them. On CUDA the profiler API marks begin and end of the steps,
which excludes loading and warm-up from the recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from profiler.attending import attending, set_attention
from profiler.experts import set_experts, use_experts
from profiler.forward import Point, fixed_step, greedy, step
from profiler.instrument import instrumented
from profiler.ranges import family
from profiler.recorders import Marks, in_range, nvtx_installed, nvtx_marks
from profiler.steps import operators_at
from profiler.subject import load_subject
from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.request import Request
    from profiler.subject import Subject
    from workloads.operators import Operator

WARM_UP = 2


class NvtxOnly:
    """A recorder of NVTX ranges only, with the tokens of the step and the sizes of the operator."""

    def __init__(self, tokens: int, described: Mapping[str, Operator]) -> None:
        self.tokens, self.described = tokens, described

    def marks(self, name: str) -> Marks:
        """Push and pop."""
        operator = self.described.get(name)
        return nvtx_marks(name, self.tokens, None if operator is None else sizes(operator))


def sizes(operator: Operator) -> str:
    """Kind and sizes of an operator as JSON: {"kind":"gemm","m":1,"n":576,"k":576,"inputs":"bf16",..}."""
    told = {field.name: getattr(operator, field.name) for field in fields(cast(Any, operator))}
    usual = {field.name: field.default for field in fields(cast(Any, operator))}
    told = {n: v for n, v in told.items() if v is not None and not (v is False and usual[n] is False)}
    return json.dumps({"kind": operator.kind, **told}, separators=(",", ":"))


def replay(request: Request) -> None:
    """Run every point as often as there are repeats, with a range around each step and each operator in it.

    Compiled steps have no ranges inside; those of a graph are made once, during its capture, which the tools
    also record. Raises InputError without nvtx.
    """
    import torch

    if not nvtx_installed():
        raise InputError("nvtx is not installed: nothing would be seen of the model; pip install nvtx.")
    family(request.loaded.model)
    with torch.inference_mode():
        subject = load_subject(request.loaded, request.device, request.dtype, request.seed)
        play = {"eager": _eager, "compile": _compiled, "graph": _graphed}[request.mode]
        set_attention(subject, request.attention)
        set_experts(subject, request.experts)
        with ExitStack() as stack, attending(request.attention):
            play(subject, request.points, request.effort.repeats, stack)


def _eager(subject: Subject, points: Sequence[Point], repeats: int, stack: ExitStack) -> None:
    runs = [(point, step(subject, point, point.kv_len)) for point in points]
    for _, run in runs:
        for _ in range(WARM_UP):
            run(greedy)
    stack.enter_context(_watched(subject.device))
    for point, run in runs:
        with instrumented(subject, nvtx_only(subject, point), greedy) as watched:
            _repeat(point, partial(run, watched.sampler), repeats)


def _compiled(subject: Subject, points: Sequence[Point], repeats: int, stack: ExitStack) -> None:
    from profiler.compiled import CompiledStep

    runs = [(point, CompiledStep(subject, fixed_step(subject, point))) for point in points]
    stack.enter_context(_watched(subject.device))
    for point, run in runs:
        use_experts(subject, point.phase)
        _repeat(point, partial(run, greedy), repeats)


def _graphed(subject: Subject, points: Sequence[Point], repeats: int, stack: ExitStack) -> None:
    from profiler.graphs import GraphedStep

    stack.enter_context(_watched(subject.device))  # tools identify a graph's nodes by its capture
    for point in points:
        captured = GraphedStep(subject, fixed_step(subject, point), nvtx_only(subject, point))
        _repeat(point, captured, repeats)


def _repeat(point: Point, run: Callable[[], Any], repeats: int) -> None:
    marks = nvtx_marks(step_name(point))
    for _ in range(repeats):
        in_range(marks, run)


def nvtx_only(subject: Subject, point: Point) -> NvtxOnly:
    """A recorder for a point, with the sizes of its operators."""
    named = operators_at(subject.loaded, subject.dtype, point)
    return NvtxOnly(point.batch * point.q_len, {entry.name: entry.operator for entry in named})


def step_name(point: Point) -> str:
    """The range around a step of a point."""
    encoded = f", {point.encoder_len} of an encoder" if point.kv_len > point.encoder_len > 0 else ""
    return f"{point.phase} {point.batch}x{point.q_len} of {point.kv_len}{encoded}"


@contextmanager
def _watched(device: str) -> Iterator[None]:
    """Limit the tools' recording to this block on a GPU; elsewhere they record everything."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    yield
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
