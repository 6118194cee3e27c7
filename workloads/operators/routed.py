"""The routed experts of one layer: its sizes, and the work of a fused kernel for the experts of one rank."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class RoutedLayer:
    """The whole layer that grouped products belong to, before sharding: MoE kernels are measured by layer."""

    tokens: Size
    hidden: Size
    width: Size  # of one expert
    top_k: int
    experts: int
    width_parallel: int = 1  # devices that share the width of each expert
    expert_parallel: int = 1  # devices that share the experts
    gated: bool = True
    dispatched: bool = False  # each device has the tokens of its experts alone, which others have sent it
    skew: float = 0.0  # expert skew: popularity falls as rank^-skew (workloads.operators.experts.popularity)


@dataclass(frozen=True)
class RoutedExperts(Operator):
    """The MLPs of one rank's routed experts: `choices` (token, expert) pairs of `tokens` rows[hidden].

    `touched` experts of the rank are chosen at least once. Rows are gathered and summed inside the kernels
    that multiply, and intermediate results stay on the chip.
    """

    kind: ClassVar[str] = "moe"

    tokens: Size  # that have at least one expert on this rank
    choices: Size
    touched: Size
    hidden: Size
    width: Size  # of one expert on this rank
    matrices: Size = 3  # gate, up and down; 2 without a gate
    inputs: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    outputs: DtypeLike = "bf16"

    def work(self) -> Work:
        """2 FLOP per multiply-add of each pair; the matrices of touched experts are read once."""
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
