"""The two blocks of an RWKV-4 layer (arXiv:2305.13048); later versions keep the second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Part, Place
from workloads.blocks.recurrent import RecurrentBlock
from workloads.operators import TokenShift, Wkv
from workloads.step import Setting, Step


@dataclass(frozen=True)
class TimeMixBlock(RecurrentBlock):
    """Keys, values and receptance of shifted rows; WKV; the receptance gates its result."""

    branch: ClassVar[str] = "time_mix"

    hidden: int
    channels: int

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        shift, wkv = self.states(place.step, place.setting)
        yield "shift", None, shift
        for name in ("key", "value", "receptance"):
            yield name, self, place.linear(self.channels, place.hidden)
        yield "wkv", self, wkv
        yield "gate_mul", self, place.activation(self.channels, "sigmoid", gated=True)
        yield "output", self, place.linear(place.hidden, self.channels)

    def states(self, step: Step, setting: Setting) -> tuple[TokenShift, Wkv]:
        """The shift, which keeps the last row, and WKV."""
        wide = setting.precision.wide
        return shifted(step, setting, self.hidden, 3), Wkv(*step.sizes, self.channels, wide, wide)

    def unsplit(self, devices: int) -> Iterator[str]:
        """Its gates would have to be gathered."""
        yield from unsplit_rwkv(devices)


@dataclass(frozen=True)
class ChannelMixBlock(RecurrentBlock):
    """A squared-ReLU MLP of shifted rows, gated by a receptance (but in RWKV-7)."""

    branch: ClassVar[str] = "channel_mix"

    hidden: int
    width: int
    gated: bool = True

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        yield "shift", None, *self.states(place.step, place.setting)
        yield "key", self, place.linear(self.width, place.hidden)
        yield "act", self, place.activation(self.width, "relu2", gated=False)
        yield "value", self, place.linear(place.hidden, self.width)
        if self.gated:
            yield "receptance", self, place.linear(place.hidden, place.hidden)
            yield "gate_mul", self, place.activation(self.hidden, "sigmoid", gated=True)

    def states(self, step: Step, setting: Setting) -> tuple[TokenShift]:
        """The shift, which keeps the last row."""
        return (shifted(step, setting, self.hidden, 2 if self.gated else 1),)


def shifted(step: Step, setting: Setting, width: int, mixes: int) -> TokenShift:
    """Rows mixed with the one before, by `mixes` vectors."""
    wide, fused = setting.precision.wide, setting.convention.elementwise_fused
    return TokenShift(*step.sizes, width, mixes, wide, wide, fused)


def unsplit_rwkv(devices: int) -> Iterator[str]:
    """Why several devices do not share a layer."""
    if devices > 1:
        yield f"is an RWKV, whose channels are not split over {devices} devices here"
