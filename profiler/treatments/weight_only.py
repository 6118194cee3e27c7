"""Weight-only quantisation with PyTorch's own kernels."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Around, Pair, Treatment, step_logits
from profiler.treatments.products import checked, exchanged, product
from specfiles.errors import InputError
from workloads.techniques.formats import WeightActivation

GROUPS = {"int4_g128": 128, "int4_g64": 64, "int4_g32": 32}
INNER_TILES = (8, 4, 2)  # of 16 inputs, per step of a GPU's INT4 kernel


class WeightOnly(Treatment):
    """The layers' projections by kernels that read quantised weights and widen them in registers.

    FBGEMM's product of fp32 rows and INT8 weights also quantises the rows, dynamically: that is
    weight-activation quantisation. PyTorch has no product of fp32 rows and INT4 weights. The bf16 kernels
    widen weights. The deviation of results is reported without a limit; each product of bf16 rows is compared
    with that of the stored weights.
    """

    name = "weight-only-quantisation"
    shared = True
    two_stacks = True

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """Formats other than INT8 and grouped INT4 for bf16 rows, and INT8 for fp32 rows on a CPU."""
        quantised = not device.startswith("cuda") and has_fbgemm()
        kernels = {"bf16": ("int8", *GROUPS)} | ({"fp32": ("int8",)} if quantised else {})
        wanted = kernels.get(dtype, ())
        if technique.format not in wanted:
            known = (
                f"it has {', '.join(wanted)}" if wanted else f"take --dtype {' or '.join(sorted(kernels))}"
            )
            return f"PyTorch has no kernel for rows in {dtype} and weights in {technique.format} ({known})"
        return None

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step with quantised projections."""
        run = step_logits(subject, point)
        around = narrowed(subject, technique.format)
        if subject.dtype != "fp32":
            return Pair(run, run, technique, around_treated=around)
        ran = WeightActivation(format=technique.format)
        return Pair(run, run, technique, around_treated=around, remark=ROWS_TOO, ran=ran)


ROWS_TOO = (
    "FBGEMM also quantises the rows and multiplies in INT8: measured and predicted is "
    "weight-activation quantisation; products that widen weights gain nothing where many rows share them"
)


def has_fbgemm() -> bool:
    """Whether this PyTorch has FBGEMM's products, as on x86."""
    import torch

    return "fbgemm" in torch.backends.quantized.supported_engines


def narrowed(subject: Subject, format: str) -> Around:
    """A context in which the projections of the layers have quantised weights."""
    return exchanged(subject, dynamic if subject.dtype == "fp32" else partial(_packed, format=format))


def dynamic(linear: Any) -> Any:
    """FBGEMM's product of dynamically quantised fp32 rows and INT8 weights, in place of a Linear."""
    import torch

    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():  # that it moves to another package
        warnings.simplefilter("ignore")
        whole = torch.nn.Sequential(linear)
        return torch.ao.quantization.quantize_dynamic(whole, {torch.nn.Linear}, torch.qint8)[0]


def _packed(linear: Any, format: str) -> Any:
    """A module that multiplies by the weight in INT8 by rows, or in INT4 by groups."""
    import torch

    weight, dtype = linear.weight.detach().float(), linear.weight.dtype
    if format == "int8":
        scale = (weight.abs().amax(1).clamp(min=1e-12) / 127).to(dtype)
        q = (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        multiply, stored = partial(_int8, q, scale), q * scale[:, None]
    else:
        q, scales = _grouped(weight, GROUPS[format], dtype)
        pack, by = (_for_gpu, _int4_gpu) if weight.is_cuda else (_for_cpu, _int4_cpu)
        multiply, stored = partial(by, pack(q), scales, GROUPS[format]), _widened(q, scales)
    return product(checked(multiply, stored.to(dtype), "bf16"), linear.bias)


def _int8(weight: Any, scale: Any, rows: Any) -> Any:
    import torch

    return torch.ops.aten._weight_int8pack_mm(rows, weight, scale)


def _grouped(weight: Any, group: int, dtype: Any) -> tuple[Any, Any]:
    """Weights in four bits, and [groups, outputs, (scale, zero)]: value = (q - 8) scale + zero."""
    import torch

    outputs, inputs = weight.shape
    if inputs % group or outputs % 16:
        raise InputError(f"a projection of {outputs} x {inputs} has no whole groups of {group}.")
    parts = weight.view(outputs, inputs // group, group)
    low, high = parts.amin(2), parts.amax(2)
    scale = ((high - low) / 15).clamp(min=1e-12)
    zero = low + 8 * scale
    q = ((parts - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32)
    return q.view(outputs, inputs), torch.stack([scale.T, zero.T], 2).to(dtype).contiguous()


def _widened(q: Any, scales: Any) -> Any:
    """The dequantised weights."""
    parts = q.view(q.shape[0], scales.shape[0], -1) - 8.0
    scale, zero = (scales[..., which].T.float()[..., None] for which in range(2))
    return (parts * scale + zero).view(q.shape)


def _for_cpu(q: Any) -> Any:
    import torch

    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)


def _for_gpu(q: Any) -> Any:
    """Two weights per byte, the even ones in the high bits, in tiles of the matrix units."""
    import torch

    tiles = next((tiles for tiles in INNER_TILES if q.shape[1] % (16 * tiles) == 0), None)
    if tiles is None:
        raise InputError(f"INT4 products on a GPU need inputs in multiples of 32; one has {q.shape[1]}.")
    bytes_of_two = (q[:, ::2] << 4 | q[:, 1::2]).to(torch.uint8).contiguous()
    return torch.ops.aten._convert_weight_to_int4pack(bytes_of_two, tiles)


def _int4_cpu(packed: Any, scales: Any, group: int, rows: Any) -> Any:
    import torch

    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group, scales)


def _int4_gpu(packed: Any, scales: Any, group: int, rows: Any) -> Any:
    import torch

    return torch.ops.aten._weight_int4pack_mm(rows, packed, group, scales)
