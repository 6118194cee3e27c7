"""Products along the sequence: what shortens keys and values (arXiv:2006.04768), and convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import Size, bytes_per_element
from workloads.operators.gemm import Gemm
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class PositionProjection(Gemm):
    """C[m, n] = A[m, k] @ W[n, positions][:, :k].T: a sequence of k meets the first columns of the matrix.

    The m rows are the elements of keys or values of all sequences, n is the number they are shortened to.
    """

    kind: ClassVar[str] = "position_projection"

    positions: Size = 1  # of the longest sequence

    def parameters(self) -> int:
        """The whole matrix, unless it is tied."""
        return 0 if self.tied else int(self.n * self.positions)

    def stored_bytes(self) -> Any:
        """The same in its format."""
        return 0 if self.tied else self.n * self.positions * bytes_per_element(self.weights)


@dataclass(frozen=True)
class SequenceConv(Gemm):
    """C[m, n]: each row multiplies W[n, k] with `kernel` neighbouring rows of A[m stride, k / kernel]."""

    kind: ClassVar[str] = "sequence_conv"

    kernel: int = 1
    stride: int = 1

    def work(self) -> Work:
        """A product's, but that the rows that neighbours share are read once."""
        plain = super().work()
        read = self.m * self.stride * self.k // self.kernel * bytes_per_element(self.inputs)
        _, *others = plain.traffic
        return replace(plain, traffic=(Traffic("input", Role.INPUT, read), *others))
