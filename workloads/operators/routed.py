"""The routed experts of one layer: its sizes, and what a fused kernel of one rank's experts has to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work

if TYPE_CHECKING:
    from workloads.dtypes import DtypeLike, Size


@dataclass(frozen=True)
class RoutedLayer:
    """The layer that grouped products belong to, before it is shared out: kernels are measured by layers."""

    tokens: Size
    hidden: Size
    width: Size  # of one expert
    top_k: int
    experts: int
    width_parallel: int = 1  # devices that share the width of each expert
    expert_parallel: int = 1  # devices that share the experts
    gated: bool = True
    skew: float = 0.0  # how popular some experts are (workloads.operators.experts.popularity)


@dataclass(frozen=True)
class RoutedExperts(Operator):
    """`choices` pairs of one of `tokens` rows[hidden] and an expert of this rank, `touched` experts in all.

    Rows are gathered and summed by the kernels that multiply, and what lies between stays on the chip.
    """

    kind: ClassVar[str] = "moe"

    tokens: Size  # with at least one expert here
    choices: Size
    touched: Size
    hidden: Size
    width: Size  # of one expert on this rank
    matrices: Size = 3  # gate, up and down; 2 without a gate
    inputs: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    outputs: DtypeLike = "bf16"

    def work(self) -> Work:
        """2 FLOP per multiply-add of each choice; the matrices of touched experts are read once."""
        elements = self.matrices * self.hidden * self.width
        rows = self.tokens * self.hidden
        return Work(
            dtype=self.inputs,
            traffic=(
                Traffic("input", Role.INPUT, rows * bytes_per_element(self.inputs)),
                Traffic("weight", Role.WEIGHT, self.touched * elements * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, rows * bytes_per_element(self.outputs)),
            ),
            matrix_flops=2 * self.choices * elements,
            outputs=rows,
        )
