"""Steps of a model under NVTX ranges and nothing else: what Nsight Systems and Nsight Compute watch.

No clock, no event, no torch.profiler runs beside them. On CUDA the tools are told where the steps begin
and end, so that loading the model and warming up are no part of what they record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from profiler.instrument import instrumented
from profiler.ranges import family
from profiler.recorders import Marks, nvtx_installed, nvtx_marks
from profiler.steps import operators_at
from profiler.subject import Point, greedy, load_subject, step
from specfiles.errors import InputError

if TYPE_CHECKING:
    from workloads.catalogue import Loaded
    from workloads.operators import Operator

WARM_UP = 2


class NvtxOnly:
    """A recorder of NVTX ranges alone, which carry the tokens of the step and the sizes of the operator."""

    def __init__(self, tokens: int, described: Mapping[str, Operator]) -> None:
        self.tokens, self.described = tokens, described

    def marks(self, name: str) -> Marks:
        """Push and pop."""
        operator = self.described.get(name)
        return nvtx_marks(name, self.tokens, None if operator is None else sizes(operator))


def sizes(operator: Operator) -> str:
    """Kind and sizes of an operator as JSON: {"kind":"gemm","m":1,"n":576,"k":576,"inputs":"bf16",..}."""
    given = {field.name: getattr(operator, field.name) for field in fields(cast(Any, operator))}
    told = {name: value for name, value in given.items() if value is not None and value is not False}
    return json.dumps({"kind": operator.kind, **told}, separators=(",", ":"))


def replay(loaded: Loaded, device: str, dtype: str, points: Sequence[Point], repeats: int, seed: int) -> None:
    """Run every point `repeats` times, each step and each operator in it in a range of its own.

    Raises InputError where no NVTX range can be made.
    """
    import torch

    if not nvtx_installed():
        raise InputError("nvtx is not installed: nothing would be seen of the model; pip install nvtx.")
    family(loaded.model)
    with torch.inference_mode():
        subject = load_subject(loaded, device, dtype, seed)
        runs = [(point, step(subject, point, point.kv_len)) for point in points]
        for _, run in runs:
            for _ in range(WARM_UP):
                run(greedy)
        with _watched(device):
            for point, run in runs:
                described = {named.name: named.operator for named in operators_at(loaded, dtype, point)}
                recorder = NvtxOnly(point.batch * point.q_len, described)
                with instrumented(subject, recorder, greedy) as watched:
                    for _ in range(repeats):
                        _in_range(step_name(point), run, watched.sampler)


def step_name(point: Point) -> str:
    """The range around a step of a point."""
    return f"{point.phase} {point.batch}x{point.q_len} of {point.kv_len}"


def _in_range(name: str, run: Callable[[Any], Any], sampler: Any) -> None:
    begin, end = nvtx_marks(name)
    for call in begin:
        call()
    run(sampler)
    for call in end:
        call()


@contextmanager
def _watched(device: str) -> Iterator[None]:
    """The tools record inside this block where there is a GPU; elsewhere they record everything."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    yield
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
