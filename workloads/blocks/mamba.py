"""The mixers of Mamba and Mamba-2: projections around a causal convolution and a scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, NormShape, Part, Place
from workloads.blocks.recurrent import RecurrentBlock, convolution
from workloads.operators import AllGather, CausalConv, SelectiveScan, Ssd
from workloads.step import Setting, Step


@dataclass(frozen=True)
class MambaBlock(RecurrentBlock):
    """The mixer of Mamba (arXiv:2312.00752); Jamba and Falcon Mamba normalise what comes out of `x_proj`."""

    branch: ClassVar[str] = "mamba"
    divided: ClassVar[Mapping[str, str]] = {"channels": "Mamba channels"}

    channels: int
    state: int
    kernel: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    inner_norm: NormShape | None = None
    state_dtype: str | None = None  # that of activations where it is not said

    def parts(self, place: Place) -> Iterator[Part]:
        """In (x and gate), convolution, dt with B and C, the scan, out."""
        devices = place.setting.tensor_parallel
        channels, low = self.channels // devices, self.dt_rank + 2 * self.state
        yield "in_proj", self, place.linear(2 * channels, place.hidden, self.proj_bias)
        conv, scan = self.states(place.step, place.setting)
        yield "conv1d", self, conv
        yield "x_proj", self, place.linear(low, channels)
        yield from place.sum_over_devices("x_proj", low)
        if self.inner_norm:
            for name, width in (("dt", self.dt_rank), ("b", self.state), ("c", self.state)):
                yield f"{name}_norm", width, place.norm(place.tokens, width, self.inner_norm)
        yield "dt_proj", self, place.linear(channels, self.dt_rank, bias=True)
        yield "scan", self, scan
        yield "out_proj", self, place.linear(place.hidden, channels, self.proj_bias)

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv, SelectiveScan]:
        """The convolution and the scan."""
        channels, wide = self.channels // setting.tensor_parallel, setting.precision.wide
        conv = convolution(step, setting, channels, self.kernel, self.conv_bias)
        state_dtype = self.state_dtype or wide
        return conv, SelectiveScan(*step.sizes, channels, self.state, wide, wide, state_dtype)


@dataclass(frozen=True)
class Mamba2Block(RecurrentBlock):
    """The mixer of Mamba-2 (arXiv:2405.21060): one projection in, heads with shared B and C."""

    branch: ClassVar[str] = "mamba"
    divided: ClassVar[Mapping[str, str]] = {"heads": "Mamba heads"}

    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    chunk: int
    conv_bias: bool = True
    proj_bias: bool = False
    state_dtype: str | None = None
    norm: bool = True  # of the gated result; Falcon-H1 has none

    def parts(self, place: Place) -> Iterator[Part]:
        """In (gate, x, B, C, dt), convolution of x, B and C, the dual, gate and norm, out."""
        heads, groups = self._shared(place.setting.tensor_parallel)
        inner = heads * self.head_dim
        width = 2 * inner + 2 * groups * self.state + heads
        yield "in_proj", self, place.linear(width, place.hidden, self.proj_bias)
        conv, ssd = self.states(place.step, place.setting)
        yield "conv1d", self, conv
        yield "ssd", self, ssd
        yield "gate_mul", self, place.activation(inner, "silu", gated=True)
        if self.norm:
            yield from self._gathered(place, inner)
            yield "norm", self, place.norm(place.tokens, inner, RMS_NORM)
        yield "out_proj", self, place.linear(place.hidden, inner, self.proj_bias)

    def _gathered(self, place: Place, inner: int) -> Iterator[Part]:
        """What a norm by groups needs of other devices: sums of squares, or rows (as Mixer2RMSNormGated)."""
        devices, p = place.setting.tensor_parallel, place.setting.precision
        if self.groups == 1:
            yield from place.squares("norm")
        elif self.groups % devices:
            yield "norm_allgather", self, AllGather(place.tokens, inner * devices, devices, p.wide)

    def _shared(self, devices: int) -> tuple[int, int]:
        """Heads and groups of one device; where there are fewer groups than devices they are copied."""
        return self.heads // devices, max(1, self.groups // devices)

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv, Ssd]:
        """The convolution and the dual."""
        heads, groups = self._shared(setting.tensor_parallel)
        channels, wide = heads * self.head_dim + 2 * groups * self.state, setting.precision.wide
        conv = convolution(step, setting, channels, self.kernel, self.conv_bias)
        sizes = heads, self.head_dim, groups, self.state, self.chunk
        return conv, Ssd(*step.sizes, *sizes, wide, wide, self.state_dtype or wide)

    def unsplit(self, devices: int) -> Iterator[str]:
        """Heads are shared out evenly; groups shared or copied evenly."""
        yield from super().unsplit(devices)
        if self.groups % devices and devices % self.groups:
            yield f"has {self.groups} Mamba groups, which {devices} devices can neither share nor copy evenly"
