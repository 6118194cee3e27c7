"""A product along the sequence: what shortens keys and values to a fixed number (arXiv:2006.04768)."""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import Size, bytes_per_element
from workloads.operators.gemm import Gemm


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
