"""Matrix products with weights: with one matrix, or with a group of which a step reads some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work

if TYPE_CHECKING:
    from workloads.dtypes import DtypeLike, Size
    from workloads.operators.routed import RoutedLayer


@dataclass(frozen=True)
class Gemm(Operator):
    """C[m, n] = A[m, k] @ W[n, k].T (+ bias[n]).

    `inputs` is the format of A and of the multiplication; narrower weights are converted to it on the chip. A
    bias has the format of the outputs: it is not quantised.
    """

    kind: ClassVar[str] = "gemm"

    m: Size
    n: Size
    k: Size
    inputs: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    outputs: DtypeLike = "bf16"
    bias: bool = False
    tied: bool = False  # the matrix belongs to another operator (the embedding)
    padded: int = 1  # tile height: m is padded to a multiple of it with zero rows, which are multiplied, too

    def work(self) -> Work:
        """2 FLOP per multiply-add; A, W and bias read once, C written once. The bias add is not counted."""
        weight = bytes_per_element(self.weights)
        traffic = [
            Traffic("input", Role.INPUT, self.m * self.k * bytes_per_element(self.inputs)),
            Traffic("weight", Role.WEIGHT, self.n * self.k * weight),
            Traffic("output", Role.OUTPUT, self.m * self.n * bytes_per_element(self.outputs)),
        ]
        if self.bias:
            traffic.append(Traffic("bias", Role.WEIGHT, self.n * bytes_per_element(self.outputs)))
        return Work(
            dtype=self.inputs,
            traffic=tuple(traffic),
            matrix_flops=2 * self.m * self.n * self.k,
            outputs=self.m * self.n,
            filled=_filled(self.m, self.padded),
        )

    def parameters(self) -> int:
        """The matrix, unless it is tied, and the bias."""
        return int((0 if self.tied else self.n * self.k) + (self.n if self.bias else 0))

    def stored_bytes(self) -> Any:
        """Bytes of the matrix, unless it is tied, and the bias, each in its format."""
        matrix = 0 if self.tied else self.n * self.k * bytes_per_element(self.weights)
        return matrix + (self.n * bytes_per_element(self.outputs) if self.bias else 0)


@dataclass(frozen=True)
class GroupedGemm(Operator):
    """C[i] = A[i] @ W[g].T (+ bias[g]) with W[groups, n, k], each row i by the matrix of its own group g.

    The `m` rows of all groups need `touched` of the matrices: of experts an expected number
    (`workloads.operators.experts`), of heads all.
    """

    kind: ClassVar[str] = "grouped_gemm"

    m: Size
    n: Size
    k: Size
    groups: Size
    touched: Size
    inputs: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    outputs: DtypeLike = "bf16"
    bias: bool = False
    read_rows: Size | None = None  # rows of A in memory if the kernel gathers them; None: m
    written_rows: Size | None = None  # rows of C in memory if the kernel sums into them; None: m
    layer: RoutedLayer | None = (
        None  # the layer of routed experts, if one kernel gathers, multiplies and sums
    )
    padded: int = 1  # tile height: the mean rows of a group are padded to a multiple of it

    def work(self) -> Work:
        """2 FLOP per multiply-add of the m rows; matrices and biases of touched groups read once."""
        weight = bytes_per_element(self.weights)
        read = self.m if self.read_rows is None else self.read_rows
        written = self.m if self.written_rows is None else self.written_rows
        traffic = [
            Traffic("input", Role.INPUT, read * self.k * bytes_per_element(self.inputs)),
            Traffic("weight", Role.WEIGHT, self.touched * self.n * self.k * weight),
            Traffic("output", Role.OUTPUT, written * self.n * bytes_per_element(self.outputs)),
        ]
        if self.bias:
            bias = self.touched * self.n * bytes_per_element(self.outputs)
            traffic.append(Traffic("bias", Role.WEIGHT, bias))
        return Work(
            dtype=self.inputs,
            traffic=tuple(traffic),
            matrix_flops=2 * self.m * self.n * self.k,
            outputs=self.m * self.n,
            filled=_filled(self.m, self.padded, self.touched),
        )

    def parameters(self) -> int:
        """All matrices and biases."""
        return int(self.groups * self._each())

    def stored_bytes(self) -> Any:
        """Bytes of all matrices and biases, each in its format."""
        bias = self.n * bytes_per_element(self.outputs) if self.bias else 0
        return self.groups * (self.n * self.k * bytes_per_element(self.weights) + bias)

    def active_parameters(self) -> int:
        """Elements of the touched groups."""
        return int(self.touched * self._each() + 0.5)

    def _each(self) -> Any:
        return self.n * self.k + (self.n if self.bias else 0)


def _filled(rows: Any, padded: int, groups: Any = 1) -> Any:
    """The share of rows that are not padding, if they are spread evenly over the groups."""
    if padded == 1:
        return 1.0
    each = rows / groups
    return each / (-(-each // padded) * padded)
