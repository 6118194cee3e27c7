"""What blocks share whose memory is a state of constant size: its bytes, and the convolution before it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from workloads.blocks.base import Block
from workloads.dtypes import Size
from workloads.operators import CausalConv
from workloads.operators.recurrence import Recurrence
from workloads.step import Setting, Step


class RecurrentBlock(Block):
    """A block some of whose operators keep a state from one step to the next."""

    @abstractmethod
    def states(self, step: Step, setting: Setting) -> tuple[Recurrence, ...]:
        """These operators, in the order of execution."""

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The states of one sequence, whatever the number of positions."""
        return sum(operator.state_bytes() for operator in self.states(Step(1, 1, 1), setting))


def convolution(step: Step, setting: Setting, channels: int, kernel: int, bias: bool) -> CausalConv:
    """A causal convolution before a scan."""
    wide, fused = setting.precision.wide, setting.convention.elementwise_fused
    return CausalConv(*step.sizes, channels, kernel, wide, wide, bias=bias, fused=fused)
