"""The two blocks of an RWKV-4 layer (arXiv:2305.13048); later versions keep the second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place
from workloads.blocks.mamba import single_step
from workloads.dtypes import Size
from workloads.operators import Activation, TokenShift, Wkv
from workloads.step import Setting, Step


@dataclass(frozen=True)
class TimeMixBlock(Block):
    """Keys, values and receptance of shifted rows; WKV; the receptance gates its result."""

    branch: ClassVar[str] = "time_mix"

    hidden: int
    channels: int

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        yield "shift", None, shifted(place.step, place.setting, self.hidden, 3)
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
        return shifted(one, setting, self.hidden, 3).state_bytes() + self._wkv(one, setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Its gates would have to be gathered."""
        yield from unsplit_rwkv(devices)


@dataclass(frozen=True)
class ChannelMixBlock(Block):
    """A squared-ReLU MLP of shifted rows, gated by a receptance (but in RWKV-7)."""

    branch: ClassVar[str] = "channel_mix"

    hidden: int
    width: int
    gated: bool = True

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        wide = place.setting.precision.wide
        yield "shift", None, shifted(place.step, place.setting, self.hidden, self._mixes)
        yield "key", self, place.linear(self.width, place.hidden)
        yield "act", self, Activation(place.tokens, self.width, wide, "relu2", False, place.fused)
        yield "value", self, place.linear(place.hidden, self.width)
        if self.gated:
            yield "receptance", self, place.linear(place.hidden, place.hidden)
            yield "gate_mul", self, _gate(place, self.hidden)

    @property
    def _mixes(self) -> int:
        return 2 if self.gated else 1

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The last row, whatever the number of positions."""
        return shifted(single_step(), setting, self.hidden, self._mixes).state_bytes()


def shifted(step: Step, setting: Setting, width: int, mixes: int) -> TokenShift:
    """Rows mixed with the one before, by `mixes` vectors."""
    wide, fused = setting.precision.wide, setting.convention.elementwise_fused
    return TokenShift(step.batch, step.q_len, step.past, width, mixes, wide, wide, fused)


def unsplit_rwkv(devices: int) -> Iterator[str]:
    """Why several devices do not share a layer."""
    if devices > 1:
        yield f"is an RWKV, whose channels are not split over {devices} devices here"


def _gate(place: Place, width: int) -> Activation:
    return Activation(place.tokens, width, place.setting.precision.wide, "sigmoid", True, place.fused)
