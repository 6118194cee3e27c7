"""Weights and activations in eight bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from profiler.forward import Point
from profiler.kernels import MULTIPLES
from profiler.kernels.place import multiplies
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, step_logits
from profiler.treatments.products import checked, exchanged, product, projections
from profiler.treatments.weight_only import has_fbgemm, narrowed
from specfiles.errors import InputError

FP8, INT8 = "fp8", "int8"
QUANTISED = "inputs are quantised by separate kernels; products checked against plain ones"
WIDENED = f"{QUANTISED}; a CPU without fp8 units widens them to multiply, and saves only memory"


class WeightActivation(Treatment):
    """The layers' projections in fp8 by torch._scaled_mm, with one scale per matrix and per input.

    Inputs' scales are static, from an earlier step (SmoothQuant): one or two kernels per product quantise
    them, which an engine fuses into the kernel before. The deviation of results is reported without a limit;
    each product is compared with that of the rounded numbers. On a CPU FBGEMM also multiplies in INT8, with
    dynamic scales.
    """

    name = "weight-activation-quantisation"
    shared = True
    two_stacks = True

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """Other formats than fp8, and INT8 on a CPU; GPUs without fp8 units."""
        if technique.format == INT8 and device == "cpu" and has_fbgemm():
            return None if dtype == "fp32" else "FBGEMM quantises rows of fp32; take --dtype fp32"
        if technique.format != FP8:
            return f"PyTorch's public kernels multiply in fp8, not in {technique.format}; take format=fp8"
        if device != "cpu" and not multiplies(device):
            return "it needs a CUDA device with fp8 units: compute capability 8.9 or later"
        return None if dtype in ("bf16", "fp16") else "its results are in 16 bits; take --dtype bf16"

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step with quantised projections and inputs."""
        run = step_logits(subject, point)
        if technique.format == INT8:
            return Pair(run, run, technique, around_treated=narrowed(subject, INT8))
        largest = _largest_inputs([linear for *_, linear in projections(subject)], run)

        def make(linear: Any) -> Any:  # projections that a step does not use are unchanged
            return narrow(linear, largest[linear]) if linear in largest else linear

        remark = WIDENED if subject.device == "cpu" else QUANTISED
        return Pair(run, run, technique, around_treated=exchanged(subject, make), remark=remark)


def _largest_inputs(linears: list[Any], run: Callable[[], Any]) -> dict[Any, Any]:
    """The largest magnitude of each module's inputs in a step."""
    largest: dict[Any, Any] = {}

    def hear(linear: Any, inputs: tuple[Any, ...]) -> None:
        largest[linear] = inputs[0].detach().abs().max()

    hooks = [linear.register_forward_pre_hook(hear) for linear in linears]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def narrow(linear: Any, largest: Any) -> Any:
    """A module that multiplies in fp8; inputs are clamped to `largest`."""
    import torch

    kind = torch.float8_e4m3fn
    most = torch.finfo(kind).max
    weight = linear.weight.detach()
    if any(size % MULTIPLES[FP8] for size in weight.shape):
        raise InputError(
            f"fp8 products need sizes in multiples of {MULTIPLES[FP8]}; one is {tuple(weight.shape)}."
        )
    scale = weight.abs().max().float().clamp(min=1e-12) / most
    stored = (weight.float() / scale).to(kind)
    stretch = largest.float().clamp(min=1e-12) / most

    def quantised(rows: Any, stretch: Any) -> Any:
        return (rows / stretch.to(rows.dtype)).clamp(-most, most).to(kind)

    def multiply(rows: Any, stretch: Any = stretch) -> Any:
        return torch._scaled_mm(
            quantised(rows, stretch),
            stored.t(),
            scale_a=stretch,
            scale_b=scale,
            out_dtype=rows.dtype,
            use_fast_accum=True,
        )

    def alone(rows: Any) -> Any:
        """With the scale of the rows themselves, for the check's random rows."""
        return multiply(rows, rows.abs().max().float() / most)

    checked(alone, (stored.float() * scale).to(weight.dtype), FP8)
    return product(multiply, linear.bias)
