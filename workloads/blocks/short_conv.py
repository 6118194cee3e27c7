"""LFM2's short convolution between two gates, the only mixer of most of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Part, Place
from workloads.blocks.recurrent import RecurrentBlock, convolution
from workloads.operators import CausalConv
from workloads.step import Setting, Step


@dataclass(frozen=True)
class ShortConvBlock(RecurrentBlock):
    """B, C and x from one projection; C * convolution(B * x) back (arXiv:2511.23404, section 2)."""

    branch: ClassVar[str] = "conv"
    divided: ClassVar[Mapping[str, str]] = {"channels": "convolution channels"}

    channels: int
    kernel: int
    bias: bool = False

    def parts(self, place: Place) -> Iterator[Part]:
        """In, the first gate, the convolution, the second gate, out."""
        channels = self.channels // place.setting.tensor_parallel
        gate = place.activation(channels, "identity", gated=True)
        yield "in_proj", self, place.linear(3 * channels, place.hidden, self.bias)
        yield "in_gate_mul", self, gate
        yield "conv1d", self, *self.states(place.step, place.setting)
        yield "out_gate_mul", self, gate
        yield "out_proj", self, place.linear(place.hidden, channels, self.bias)

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv]:
        """The convolution, which keeps its last inputs."""
        channels = self.channels // setting.tensor_parallel
        return (replace(convolution(step, setting, channels, self.kernel, self.bias), silu=False),)
