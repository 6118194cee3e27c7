"""The time mixing of RWKV-5, 6 and 7: projections and low-rank maps around a matrix-valued state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import NormShape, Part, Place
from workloads.blocks.recurrent import RecurrentBlock
from workloads.blocks.rwkv import shifted, unsplit_rwkv
from workloads.operators import DeltaWkv, MatrixWkv, TokenShift
from workloads.step import Setting, Step


@dataclass(frozen=True)
class HeadMixBlock(RecurrentBlock):
    """What the three versions share: rows mixed with the one before, the recurrence, a norm of heads, out."""

    branch: ClassVar[str] = "time_mix"
    mixes: ClassVar[int]
    projections: ClassVar[tuple[str, ...]]
    gate: ClassVar[str]

    hidden: int
    channels: int
    head_dim: int

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution."""
        yield from self._shift(place)
        for name in self.projections:
            yield name, self, place.linear(self.channels, place.hidden)
        yield from self._low_rank(place)
        yield "wkv", self, self._rule(place.step, place.setting)
        # One mean and variance per head; its weights are those of a norm of all channels.
        norm = place.norm(place.tokens, self.channels, NormShape(center=True, bias=True))
        yield "norm", self, norm
        yield "gate_mul", self, place.activation(self.channels, self.gate, gated=True)
        yield "output", self, place.linear(place.hidden, self.channels)

    def _shift(self, place: Place) -> Iterator[Part]:
        yield "shift", None, shifted(place.step, place.setting, self.hidden, self.mixes)

    def _low_rank(self, place: Place) -> Iterator[Part]:
        return iter(())

    def _through(
        self, place: Place, name: str, rank: int, function: str = "", bias: bool = True
    ) -> Iterator[Part]:
        """Down to `rank` features, perhaps an activation, up to the channels."""
        yield f"{name}_in", self, place.linear(rank, place.hidden)
        if function:
            yield f"{name}_act", self, place.activation(rank, function, gated=False)
        yield f"{name}_out", self, place.linear(self.channels, rank, bias)

    @abstractmethod
    def _rule(self, step: Step, setting: Setting) -> MatrixWkv | DeltaWkv: ...

    def states(self, step: Step, setting: Setting) -> tuple[TokenShift, MatrixWkv | DeltaWkv]:
        """The shift, which keeps the last row, and the recurrence."""
        return shifted(step, setting, self.hidden, self.mixes), self._rule(step, setting)

    def unsplit(self, devices: int) -> Iterator[str]:
        """Its gates would have to be gathered."""
        yield from unsplit_rwkv(devices)


@dataclass(frozen=True)
class EagleBlock(HeadMixBlock):
    """RWKV-5: decays are weights (arXiv:2404.05892)."""

    mixes: ClassVar[int] = 4
    projections: ClassVar[tuple[str, ...]] = ("key", "value", "receptance", "gate")
    gate: ClassVar[str] = "silu"

    def _rule(self, step: Step, setting: Setting) -> MatrixWkv:
        p, heads = setting.precision, self.channels // self.head_dim
        return MatrixWkv(*step.sizes, heads, self.head_dim, dtype=p.wide, weights=p.wide)


@dataclass(frozen=True)
class FinchBlock(HeadMixBlock):
    """RWKV-6: how rows mix and states decay depends on the row, through matrices of low rank."""

    mixes: ClassVar[int] = 6  # one that finds the five others
    projections: ClassVar[tuple[str, ...]] = EagleBlock.projections
    gate: ClassVar[str] = "silu"

    mix_rank: int
    decay_rank: int

    def _shift(self, place: Place) -> Iterator[Part]:
        yield from super()._shift(place)
        rank = self.mix_rank
        yield "mix_in", self, place.linear(5 * rank, place.hidden)
        yield "mix_act", self, place.activation(5 * rank, "tanh", gated=False)
        for _ in range(5):
            yield "mix_out", self, place.linear(place.hidden, rank)

    def _low_rank(self, place: Place) -> Iterator[Part]:
        yield from self._through(place, "decay", self.decay_rank, "tanh")

    def _rule(self, step: Step, setting: Setting) -> MatrixWkv:
        p, heads = setting.precision, self.channels // self.head_dim
        sizes = *step.sizes, heads, self.head_dim
        return MatrixWkv(*sizes, moving=True, dtype=p.wide, weights=p.wide)


@dataclass(frozen=True)
class GooseBlock(HeadMixBlock):
    """RWKV-7: the state forgets what a key finds (arXiv:2503.14456); only the first layer mixes no values."""

    mixes: ClassVar[int] = 6
    projections: ClassVar[tuple[str, ...]] = ("receptance", "key", "value")
    gate: ClassVar[str] = "none"

    decay_rank: int
    rate_rank: int
    value_rank: int  # 0 in the first layer
    gate_rank: int

    def _low_rank(self, place: Place) -> Iterator[Part]:
        yield from self._through(place, "decay", self.decay_rank, "tanh")
        if self.value_rank:
            yield from self._through(place, "value_mix", self.value_rank)
        yield from self._through(place, "rate", self.rate_rank)
        yield from self._through(place, "gate", self.gate_rank, "sigmoid", bias=False)

    def _rule(self, step: Step, setting: Setting) -> DeltaWkv:
        p, heads = setting.precision, self.channels // self.head_dim
        sizes = *step.sizes, heads, self.head_dim
        return DeltaWkv(*sizes, mixed=self.value_rank > 0, dtype=p.wide, weights=p.wide)
