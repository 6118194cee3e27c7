"""Which formats and kernels stand in for one that was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hwspecs import Kernel
from roofline.physics import models
from roofline.physics.base import Constant, Gpu
from roofline.physics.collectives import CollectiveModel
from roofline.physics.columns import dtypes_of
from roofline.physics.elementwise import ElementwiseModel
from roofline.physics.libraries import attends_by_default

# Formats that the same units run at the same rate: one stands in where the other was not measured.
ALIKE = {
    "float16": ("bfloat16",),
    "int8": ("sq", "fp8"),
    "sq": ("int8", "fp8"),
    "fp8_block": ("fp8",),
    "mxfp8": ("fp8_block", "fp8"),
    "mxfp4": ("nvfp4", "fp8"),
    "nvfp4": ("fp8",),
    "int4_wo": ("int8_wo",),
    "int8_wo": ("int4_wo",),
    "w4a16_mxfp4": ("int4_wo",),
    "w4a8_mxfp4_mxfp8": ("nvfp4", "fp8"),
}
# The same for attention, whose kernels differ less by format than by generation.
ALIKE_IN_ATTENTION = {**ALIKE, "fp8": ("bfloat16",), "bfloat16": ("fp8",)}
# And for elementwise kernels, which move 16 bits per element in either.
PASSES = frozenset(ElementwiseModel.kinds)
ALIKE_IN_PASSES = {"float16": ("bfloat16",), "bfloat16": ("float16",)}
# And for messages, of which the bytes count and hardly the format.
MESSAGES = frozenset(CollectiveModel.kinds)
ALIKE_IN_MESSAGES = {**ALIKE_IN_PASSES, "float32": ("bfloat16", "float16")}
IN_BYTES = ("int8", "float16")
MEASURED_WELL = 100  # rows, from which kernels speak for others of their library or generation

Pair = tuple[Gpu, Kernel]


@dataclass(frozen=True)
class Asked:
    """What constants are asked for."""

    op: str
    formats: Sequence[tuple[str, str]]  # of inputs and cache: the one asked for, then those that stand in
    constants: Sequence[Constant]
    unit: str  # the format that is multiplied in
    backend: str
    kernel: str


def attends(op: str) -> bool:
    """Whether an operator is attention, on a cache of keys and values or of latents."""
    return op.startswith(("attention", "mla"))


def formats_of(op: str, dtype: str, kv_dtype: str, kernel: str) -> list[tuple[str, str]]:
    """The formats of inputs and cache that are asked for, then those that stand in."""
    if op in MESSAGES:
        return [(d, kv_dtype) for d in (dtype, *ALIKE_IN_MESSAGES.get(dtype, IN_BYTES))]
    alike = ALIKE_IN_ATTENTION if attends(op) else ALIKE_IN_PASSES if op in PASSES else ALIKE
    kv_formats = [kv_dtype, *alike.get(kv_dtype, ())] if kv_dtype else [""]
    stand_in = models()[op].alike(kernel, dtype) or alike.get(dtype, ())
    return [(d, kv) for d in (dtype, *stand_in) for kv in kv_formats]


def in_another_format(found: Kernel, kernels: Sequence[Kernel], asked: Asked, gpu: Gpu) -> bool:
    """Whether the kernel for attention or messages that is asked for, or the engine's default, is known in a
    format that stands in, and this is another kernel: they differ more by kernel than by format."""
    if asked.op in MESSAGES:
        return not _asked_for(found, asked) and any(
            k.op == asked.op and (k.dtype, k.kv_dtype) in asked.formats and _asked_for(k, asked)
            for k in kernels
        )
    wanted = asked.kernel or attends_by_default(asked.backend, gpu)
    if not wanted or found.kernel == wanted or not attends(asked.op):
        return False
    cell = asked.op, asked.backend, wanted
    return any(
        cell == (k.op, k.backend, k.kernel) and (k.dtype, k.kv_dtype) in asked.formats for k in kernels
    )


def _asked_for(kernel: Kernel, asked: Asked) -> bool:
    """Whether it is of the backend, and the kernel where one is named."""
    return kernel.backend == asked.backend and asked.kernel in ("", kernel.kernel)


def lent(gpu: Gpu, kernel: Kernel, target: Gpu, asked: Asked) -> Mapping[str, float]:
    """What a kernel's constants tell of the one that is asked for."""
    model, dtype = models()[asked.op], asked.formats[0][0]
    lender = model.alias(kernel.kernel, gpu, kernel.dtype), dtypes_of(kernel.dtype)
    return model.borrowed(kernel.values, lender, (model.alias(asked.kernel, target, dtype), dtypes_of(dtype)))


def best(
    gpu: Gpu, kernels: Sequence[Kernel], op: str, dtype: str, kv_dtype: str, backend: str, kernel: str
) -> Kernel | None:
    """The kernel asked for, else one of its library, else the backend's most measured one, else all's fit.

    A kernel that ran without tuning stands in for no other.
    """
    fitting = [k for k in kernels if (k.op, k.dtype) == (op, dtype) and k.kv_dtype in (kv_dtype, "")]
    same = [k for k in fitting if (k.backend, k.kernel) == (backend, kernel)]
    model, formats = models()[op], dtypes_of(dtype, kv_dtype)
    library = model.source(model.alias(kernel, gpu, dtype)) if kernel else None
    others = [] if same else [k for k in fitting if k.backend and model.sound(k.values, gpu, formats)]
    alike = [k for k in others if library and model.source(model.alias(k.kernel, gpu, k.dtype)) == library]
    of_backend = [k for k in others if k.backend == backend]
    for found in (same, alike, of_backend, [k for k in fitting if not (k.backend or k.kernel)]):
        if found:
            return max(found, key=lambda k: (k.kv_dtype == kv_dtype, k.points, k.kernel))
    return None


def pools(
    every: list[Pair], target: Gpu, op: str, formats: Sequence[tuple[str, str]], backend: str, kernel: str
) -> Iterator[tuple[list[Pair], tuple[str, str]]]:
    """Kernels of other devices to take the mean of, with the format that they must have: the best first."""
    model = models()[op]
    same = [
        (gpu, k)
        for gpu, k in every
        if (k.backend, k.kernel) == (backend, kernel) and not model.renamed(kernel, gpu, target)
    ]
    well = [(gpu, k) for gpu, k in every if k.points >= MEASURED_WELL]
    library = model.source(model.alias(kernel, target, formats[0][0]))
    if library is not None:  # of few rows the library's overheads are not known
        alike = [(g, k) for g, k in every if model.source(model.alias(k.kernel, g, k.dtype)) == library]
        tuned = [(gpu, k) for gpu, k in well if model.sound(k.values, gpu, dtypes_of(k.dtype))]
        ample = () if model.few_rows_speak else (tuned, well)
        known = ([pair for pair in pool if pair in few] for few in ample for pool in (same, alike, every))
        ranked = [*known, same, alike, every]
        yield from ((pool, one) for pool in ranked for one in formats)
        return
    if op in MESSAGES:
        yield from ((pool, one) for pool in (same, well, every) for one in formats)
        return
    for one in formats:  # a kernel's name in another format says less than other kernels of the format
        yield from (
            (pool, one) for pool in ([well, every] if one[0] in model.everyone_s else [same, well, every])
        )
