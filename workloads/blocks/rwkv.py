"""The two blocks of an RWKV-4 layer (arXiv:2305.13048)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.blocks.base import Block, Part, Place
from workloads.blocks.mamba import single_step
from workloads.operators import Activation, TokenShift, Wkv

if TYPE_CHECKING:
    from workloads.dtypes import Size
    from workloads.step import Setting, Step


@dataclass(frozen=True)
class TimeMixBlock(Block):
    """Keys, values and receptance of shifted rows; WKV; the receptance gates its result."""

    branch: ClassVar[str] = "time_mix"

    hidden: int
    channels: int

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        yield "shift", None, _shift(place.step, place.setting, self.hidden, 3)
        for name in ("key", "value", "receptance"):
            yield name, self, place.linear(self.channels, place.hidden)
        yield "wkv", self, self._wkv(place.step, place.setting)
        yield "gate_mul", self, _gate(place, self.channels)
        yield "output", self, place.linear(place.hidden, self.channels)

    def _wkv(self, step: Step, setting: Setting) -> Wkv:
        p = setting.precision
        return Wkv(step.batch, step.q_len, step.past, self.channels, p.wide, p.wide)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The last row and the state of WKV, whatever the number of positions."""
        one = single_step()
        return _shift(one, setting, self.hidden, 3).state_bytes() + self._wkv(one, setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Its gates would have to be gathered."""
        if devices > 1:
            yield f"is an RWKV, whose channels are not split over {devices} devices here"


@dataclass(frozen=True)
class ChannelMixBlock(Block):
    """A squared-ReLU MLP of shifted rows, gated by a receptance."""

    branch: ClassVar[str] = "channel_mix"

    hidden: int
    width: int

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        wide = place.setting.precision.wide
        yield "shift", None, _shift(place.step, place.setting, self.hidden, 2)
        yield "key", self, place.linear(self.width, place.hidden)
        yield "act", self, Activation(place.tokens, self.width, wide, "relu2", False, place.fused)
        yield "value", self, place.linear(place.hidden, self.width)
        yield "receptance", self, place.linear(place.hidden, place.hidden)
        yield "gate_mul", self, _gate(place, self.hidden)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The last row, whatever the number of positions."""
        return _shift(single_step(), setting, self.hidden, 2).state_bytes()


def _shift(step: Step, setting: Setting, width: int, mixes: int) -> TokenShift:
    wide, fused = setting.precision.wide, setting.convention.elementwise_fused
    return TokenShift(step.batch, step.q_len, step.past, width, mixes, wide, wide, fused)


def _gate(place: Place, width: int) -> Activation:
    return Activation(place.tokens, width, place.setting.precision.wide, "sigmoid", True, place.fused)
