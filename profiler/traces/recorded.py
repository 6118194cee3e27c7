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
class Streamed(Operator):
    """An operator that only moves tensors: each read or written once, one FLOP per result element."""

    kind: ClassVar[str] = "elementwise"

    read_bytes: float
    written_bytes: float
    results: float
    dtype: str = "fp32"

    def work(self) -> Work:
        """Bytes as recorded; arithmetic on vector units."""
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("inputs", Role.INPUT, self.read_bytes),
                Traffic("outputs", Role.OUTPUT, self.written_bytes),
            ),
            vector_flops=self.results,
            outputs=self.results,
        )


@dataclass(frozen=True)
class Experts(Operator):
    """Both products of a layer of experts."""

    kind: ClassVar[str] = "grouped_gemm"

    activation_bytes: float
    weight_bytes: float
    matrix_flops: float
    dtype: str
    results: float

    def work(self) -> Work:
        """Activations in and out once, the weights of the experts in use once."""
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("tokens", Role.INPUT, self.activation_bytes),
                Traffic("weights", Role.WEIGHT, self.weight_bytes),
            ),
            matrix_flops=self.matrix_flops,
            outputs=self.results,
        )
