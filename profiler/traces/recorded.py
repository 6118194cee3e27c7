"""A trace's record of an operator's call, and operators that exist only in recordings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from workloads.operators import Operator
from workloads.work import Role, Traffic, Work

# Types as PyTorch prints them -> the format here, or bytes of an element where no format matters.
TYPES: Mapping[str, str] = {
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "float": "fp32",
    "double": "fp64",
    "c10::Float8_e4m3fn": "fp8",
    "c10::Float8_e4m3fnuz": "fp8",
    "c10::Float8_e5m2": "fp8",
    "c10::Float8_e5m2fnuz": "fp8",
    "signed char": "int8",
    "c10::Float4_e2m1fn_x2": "fp4",  # a recorded element holds two numbers
}
ELEMENT_BYTES: Mapping[str, float] = {
    "bf16": 2,
    "fp16": 2,
    "fp32": 4,
    "fp64": 8,
    "fp8": 1,
    "int8": 1,
    "fp4": 1,  # of a recorded element
    "unsigned char": 1,
    "bool": 1,
    "short int": 2,
    "short": 2,
    "int": 4,
    "long int": 8,
    "long": 8,
    "c10::Float8_e8m0fnu": 1,
    "c10::complex<float>": 8,
}


@dataclass(frozen=True)
class Tensor:
    """The sizes and type of one recorded input."""

    dims: tuple[int, ...]
    type: str

    @property
    def elements(self) -> int:
        """How many; 1 for a scalar."""
        return math.prod(self.dims)

    @property
    def dtype(self) -> str:
        """The format; fp32 where the type is none that matrix units know."""
        return TYPES.get(self.type, "fp32")

    @property
    def bytes(self) -> float:
        """Of all elements."""
        return self.elements * ELEMENT_BYTES.get(TYPES.get(self.type, self.type), 4)


@dataclass(frozen=True)
class Recorded:
    """The record of one call: tensors (None for other inputs), and lengths from enclosing ranges."""

    inputs: tuple[Tensor | None, ...]
    lists: Mapping[int, tuple[Tensor, ...]]
    values: Sequence[Any]
    sequences: int = 0  # of the step, where an annotation says it; 0 otherwise
    kv_tokens: float = 0  # visible positions summed over the sequences

    def tensors(self, at: Sequence[int]) -> list[Tensor]:
        """The inputs at these positions. KeyError where one is missing or no tensor."""
        found = [self.inputs[i] if i < len(self.inputs) else None for i in at]
        if any(tensor is None or not tensor.dims for tensor in found):
            raise KeyError(at)
        return [tensor for tensor in found if tensor is not None]

    def all_tensors(self) -> list[Tensor]:
        """Every input that is a tensor."""
        return [tensor for tensor in self.inputs if tensor is not None and tensor.dims]


@dataclass(frozen=True)
class Given(Operator):
    """An operator whose work is already known."""

    kind: ClassVar[str] = "given"

    given: Work

    def work(self) -> Work:
        """As given."""
        return self.given


def streamed_work(read_bytes: float, written_bytes: float, results: float, dtype: str) -> Given:
    """Tensors only moved: each read or written once, one FLOP per result element on vector units."""
    traffic = (Traffic("inputs", Role.INPUT, read_bytes), Traffic("outputs", Role.OUTPUT, written_bytes))
    return Given(Work(dtype, traffic, vector_flops=results, outputs=results))


def matrix_work(
    activation_bytes: float, weight_bytes: float, matrix_flops: float, dtype: str, results: float
) -> Given:
    """Products of activations, in and out once, with weights, read once."""
    traffic = (
        Traffic("activations", Role.INPUT, activation_bytes),
        Traffic("weights", Role.WEIGHT, weight_bytes),
    )
    return Given(Work(dtype, traffic, matrix_flops=matrix_flops, outputs=results))
