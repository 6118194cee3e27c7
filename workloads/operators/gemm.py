"""Matrix products with weights: one matrix, or a group of them of which a step touches some."""

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

    `inputs` is the format of A and of the multiplication; narrower weights are widened on the way. A bias
    has the format of the outputs: quantisation leaves it alone.
    """

    kind: ClassVar[str] = "gemm"

    m: Size
    n: Size
    k: Size
    inputs: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    outputs: DtypeLike = "bf16"
    bias: bool = False
    tied: bool = False  # the matrix is another operator's (a vocabulary projection with the embedding's)
    padded: int = 1  # rows are padded to a multiple of these with zeros that are multiplied, too

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
        """The same, each in its format."""
        matrix = 0 if self.tied else self.n * self.k * bytes_per_element(self.weights)
        return matrix + (self.n * bytes_per_element(self.outputs) if self.bias else 0)


@dataclass(frozen=True)
class GroupedGemm(Operator):
    """C[i] = A[i] @ W[g].T (+ bias[g]) with W[groups, n, k], each row i by the matrix of its own group g.

    `m` rows of all groups together meet `touched` of the matrices: experts (expected number, see
    workloads.operators.experts), or heads, of which all are touched.
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
    read_rows: Size | None = None  # rows of A in memory where the kernel gathers them; otherwise m
    written_rows: Size | None = None  # rows of C in memory where the kernel sums into them; otherwise m
    layer: RoutedLayer | None = None  # of routed experts, where one kernel gathers, multiplies and sums
    padded: int = 1  # rows of each group are padded to a multiple of these, at their mean number

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
        """The same, each in its format."""
        bias = self.n * bytes_per_element(self.outputs) if self.bias else 0
        return self.groups * (self.n * self.k * bytes_per_element(self.weights) + bias)

    def active_parameters(self) -> int:
        """Those of the touched groups."""
        return int(self.touched * self._each() + 0.5)

    def _each(self) -> Any:
        return self.n * self.k + (self.n if self.bias else 0)


def _filled(rows: Any, padded: int, groups: Any = 1) -> Any:
    """The share of rows, even over groups, that are not zeros which fill up the last tile."""
    if padded == 1:
        return 1.0
    each = rows / groups
    return each / (-(-each // padded) * padded)
