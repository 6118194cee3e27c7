"""An operation that was seen rather than described: what its tensors weigh, and its FLOP where known."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class Traced(Operator):
    """One call of an operation of a framework, by the bytes of the tensors that it took and gave.

    `owned` weight elements are met here for the first time, `owned_bytes` is what they take in memory.
    """

    kind: ClassVar[str] = "traced"

    call: str
    read_bytes: Size
    weight_bytes: Size
    written_bytes: Size
    dtype: DtypeLike = "fp32"
    matrix_flops: Size = 0
    vector_flops: Size = 0
    special_ops: Size = 0
    outputs: Size = 0
    owned: int = 0
    owned_bytes: float = 0

    def work(self) -> Work:
        """As seen: every tensor moved once."""
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("inputs", Role.INPUT, self.read_bytes),
                Traffic("weights", Role.WEIGHT, self.weight_bytes),
                Traffic("outputs", Role.OUTPUT, self.written_bytes),
            ),
            matrix_flops=self.matrix_flops,
            vector_flops=self.vector_flops,
            special_ops=self.special_ops,
            outputs=self.outputs,
        )

    def parameters(self) -> int:
        """Weights met here first."""
        return self.owned

    def stored_bytes(self) -> float:
        """Their bytes in their own format."""
        return self.owned_bytes
