"""The mixers of Mamba and Mamba-2: projections around a causal convolution and a scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Block, Part, Place, indivisible
from workloads.dtypes import Size
from workloads.operators import Activation, AllReduce, CausalConv, SelectiveScan, Ssd
from workloads.step import Setting, Step


@dataclass(frozen=True)
class MambaBlock(Block):
    """The mixer of Mamba (arXiv:2312.00752); Jamba normalises what comes out of `x_proj`."""

    branch: ClassVar[str] = "mamba"

    channels: int
    state: int
    kernel: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    inner_norms: bool = False
    state_dtype: str | None = None  # that of activations where it is not said

    def parts(self, place: Place) -> Iterator[Part]:
        """In (x and gate), convolution, dt with B and C, the scan, out."""
        devices, p = place.setting.tensor_parallel, place.setting.precision
        channels, low = self.channels // devices, self.dt_rank + 2 * self.state
        yield "in_proj", self, place.linear(2 * channels, place.hidden, self.proj_bias)
        yield "conv1d", self, self._conv(place.step, place.setting)
        yield "x_proj", self, place.linear(low, channels)
        if devices > 1:
            yield "x_proj_allreduce", self, AllReduce(place.tokens, low, devices, p.wide)
        if self.inner_norms:
            for name, width in (("dt", self.dt_rank), ("b", self.state), ("c", self.state)):
                yield f"{name}_norm", width, place.norm(place.tokens, width, RMS_NORM)
        yield "dt_proj", self, place.linear(channels, self.dt_rank, bias=True)
        yield "scan", self, self._scan(place.step, place.setting)
        yield "out_proj", self, place.linear(place.hidden, channels, self.proj_bias)

    def _conv(self, step: Step, setting: Setting) -> CausalConv:
        channels = self.channels // setting.tensor_parallel
        return convolution(step, setting, channels, self.kernel, self.conv_bias)

    def _scan(self, step: Step, setting: Setting) -> SelectiveScan:
        p = setting.precision
        return SelectiveScan(
            step.batch,
            step.q_len,
            step.past,
            self.channels // setting.tensor_parallel,
            self.state,
            dtype=p.wide,
            weights=p.wide,
            state_dtype=self.state_dtype or p.wide,
        )

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The states of convolution and scan, whatever the number of positions."""
        one = single_step()
        return self._conv(one, setting).state_bytes() + self._scan(one, setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Channels are shared out evenly."""
        yield from indivisible("Mamba channels", self.channels, devices)


@dataclass(frozen=True)
class Mamba2Block(Block):
    """The mixer of Mamba-2 (arXiv:2405.21060): one projection in, heads with shared B and C."""

    branch: ClassVar[str] = "mamba"

    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    chunk: int
    conv_bias: bool = True
    proj_bias: bool = False
    state_dtype: str | None = None

    def parts(self, place: Place) -> Iterator[Part]:
        """In (gate, x, B, C, dt), convolution of x, B and C, the dual, gate and norm, out."""
        heads, groups = self._shared(place.setting.tensor_parallel)
        inner, p = heads * self.head_dim, place.setting.precision
        width = 2 * inner + 2 * groups * self.state + heads
        yield "in_proj", self, place.linear(width, place.hidden, self.proj_bias)
        yield "conv1d", self, self._conv(place.step, place.setting)
        yield "ssd", self, self._ssd(place.step, place.setting)
        yield "gate_mul", self, Activation(place.tokens, inner, p.wide, "silu", True, place.fused)
        yield "norm", self, place.norm(place.tokens, inner, RMS_NORM)
        yield "out_proj", self, place.linear(place.hidden, inner, self.proj_bias)

    def _shared(self, devices: int) -> tuple[int, int]:
        """Heads and groups of one device; where there are fewer groups than devices they are copied."""
        return self.heads // devices, max(1, self.groups // devices)

    def _conv(self, step: Step, setting: Setting) -> CausalConv:
        heads, groups = self._shared(setting.tensor_parallel)
        channels = heads * self.head_dim + 2 * groups * self.state
        return convolution(step, setting, channels, self.kernel, self.conv_bias)

    def _ssd(self, step: Step, setting: Setting) -> Ssd:
        heads, groups = self._shared(setting.tensor_parallel)
        p = setting.precision
        return Ssd(
            step.batch,
            step.q_len,
            step.past,
            heads,
            self.head_dim,
            groups,
            self.state,
            self.chunk,
            dtype=p.wide,
            weights=p.wide,
            state_dtype=self.state_dtype or p.wide,
        )

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The states of convolution and scan, whatever the number of positions."""
        one = single_step()
        return self._conv(one, setting).state_bytes() + self._ssd(one, setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Heads are shared out evenly; groups shared or copied evenly."""
        yield from indivisible("Mamba heads", self.heads, devices)
        if self.groups % devices and devices % self.groups:
            yield f"has {self.groups} Mamba groups, which {devices} devices can neither share nor copy evenly"


def convolution(step: Step, setting: Setting, channels: int, kernel: int, bias: bool) -> CausalConv:
    """A causal convolution before a scan."""
    p, fused = setting.precision, setting.convention.elementwise_fused
    return CausalConv(
        step.batch, step.q_len, step.past, channels, kernel, p.wide, p.wide, bias=bias, fused=fused
    )


def single_step() -> Step:
    """One sequence, one position: the sizes at which a state is that of one sequence."""
    from workloads.step import Step

    return Step(1, 1, 1)
