"""Rows shifted and scaled, or gated, by what their sequence is conditioned on (adaLN, arXiv:2212.09748)."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class Modulation(Operator):
    """x (1 + scale) + shift, or x gate, of x[batch, q_len, width] with one vector per sequence."""

    kind: ClassVar[str] = "modulation"

    batch: Size
    q_len: Size
    width: Size
    gate: bool = False
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """1 FLOP per element of a gate, 2 of shift and scale, whose 1 + scale is made once a sequence.

        The vectors are read in any case; x and y move where the operator has a kernel of its own.
        """
        sequences = self.batch * self.width
        elements, element = sequences * self.q_len, bytes_per_element(self.dtype)
        vectors = Traffic("shift, scale, gate", Role.INPUT, (1 if self.gate else 2) * sequences * element)
        rows = (
            Traffic("input", Role.INPUT, elements * element),
            Traffic("output", Role.OUTPUT, elements * element),
        )
        return Work(
            dtype=self.dtype,
            traffic=(vectors,) if self.fused else (vectors, *rows),
            vector_flops=elements if self.gate else 2 * elements + sequences,
            outputs=elements,
            fused=self.fused,
        )
