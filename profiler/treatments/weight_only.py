"""Weight-only quantisation with PyTorch's CPU kernels."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from profiler.subject import Point, Subject, step
from profiler.treatments.base import Pair, Treatment, logits
from profiler.treatments.products import exchanged, product
from specfiles.errors import InputError

GROUPS = {"int4_g128": 128, "int4_g64": 64, "int4_g32": 32}


class WeightOnly(Treatment):
    """The layers' projections by kernels that read narrow weights: nothing is widened in memory.

    FBGEMM's product of fp32 rows and INT8 weights quantises the rows on the way, each product anew; the
    bf16 kernels widen weights. Outputs differ, by how much is reported and judged by no one.
    """

    name = "weight-only-quantisation"

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """PyTorch's own kernels: INT8 for fp32 and bf16 rows, INT4 in groups for bf16 rows."""
        if device.startswith("cuda"):
            return "its kernels here are those of CPUs; on CUDA it needs Marlin or torchao"
        wanted = {"fp32": ("int8",), "bf16": ("int8", *GROUPS)}.get(dtype, ())
        if technique.format not in wanted:
            known = f"it has {', '.join(wanted)}" if wanted else "take --dtype fp32 or bf16"
            return f"PyTorch has no kernel for rows in {dtype} and weights in {technique.format} ({known})"
        return None

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step; narrow projections stand in the place of the wide ones."""

        def make(linear: Any) -> Any:
            return _dynamic(linear) if subject.dtype == "fp32" else _packed(linear, technique.format)

        run = partial(step(subject, point, point.kv_len), logits)
        return Pair(run, run, technique, around_treated=exchanged(subject, make))


def _dynamic(linear: Any) -> Any:
    import torch

    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():  # it says that it moves to another package
        warnings.simplefilter("ignore")
        whole = torch.nn.Sequential(linear)
        return torch.ao.quantization.quantize_dynamic(whole, {torch.nn.Linear}, torch.qint8)[0]


def _packed(linear: Any, format: str) -> Any:
    """A module that multiplies by the weight in INT8 by rows, or in INT4 by groups."""
    import torch

    weight = linear.weight.detach().float()
    if format == "int8":
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        narrow = (weight / scale[:, None]).round().to(torch.int8)
        multiply = partial(_int8, narrow, scale.to(linear.weight.dtype))
    else:
        multiply = partial(_int4, *_grouped(weight, GROUPS[format], linear.weight.dtype), GROUPS[format])
    return product(multiply, linear.bias)


def _int8(weight: Any, scale: Any, rows: Any) -> Any:
    import torch

    return torch.ops.aten._weight_int8pack_mm(rows, weight, scale)


def _grouped(weight: Any, group: int, dtype: Any) -> tuple[Any, Any]:
    """Weights as PyTorch packs them, and [groups, outputs, (scale, zero)]: value = (q - 8) scale + zero."""
    import torch

    outputs, inputs = weight.shape
    if inputs % group or outputs % 16:
        raise InputError(f"a projection of {outputs} x {inputs} has no whole groups of {group}.")
    parts = weight.view(outputs, inputs // group, group)
    low, high = parts.amin(2), parts.amax(2)
    scale = ((high - low) / 15).clamp(min=1e-12)
    zero = low + 8 * scale
    q = ((parts - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.view(outputs, inputs), 1)
    return packed, torch.stack([scale.T, zero.T], 2).to(dtype).contiguous()


def _int4(packed: Any, scales: Any, group: int, rows: Any) -> Any:
    import torch

    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group, scales)
