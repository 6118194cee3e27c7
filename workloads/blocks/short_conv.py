"""LFM2's short convolution between two gates, the only mixer of most of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place, indivisible
from workloads.blocks.mamba import convolution, single_step
from workloads.dtypes import Size
from workloads.operators import Activation, CausalConv
from workloads.step import Setting, Step


@dataclass(frozen=True)
class ShortConvBlock(Block):
    """B, C and x from one projection; C * convolution(B * x) back (arXiv:2511.23404, section 2)."""

    branch: ClassVar[str] = "conv"

    channels: int
    kernel: int
    bias: bool = False

    def parts(self, place: Place) -> Iterator[Part]:
        """In, the first gate, the convolution, the second gate, out."""
        channels, p = self.channels // place.setting.tensor_parallel, place.setting.precision
        gate = Activation(place.tokens, channels, p.wide, "identity", True, place.fused)
        yield "in_proj", self, place.linear(3 * channels, place.hidden, self.bias)
        yield "in_gate_mul", self, gate
        yield "conv1d", self, self._conv(place.step, place.setting)
        yield "out_gate_mul", self, gate
        yield "out_proj", self, place.linear(place.hidden, channels, self.bias)

    def _conv(self, step: Step, setting: Setting) -> CausalConv:
        channels = self.channels // setting.tensor_parallel
        return replace(convolution(step, setting, channels, self.kernel, self.bias), silu=False)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The last inputs of the convolution, whatever the number of positions."""
        return self._conv(single_step(), setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Channels are shared out evenly."""
        yield from indivisible("convolution channels", self.channels, devices)
