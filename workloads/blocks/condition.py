"""What a diffusion model is conditioned on: its noise level, and the vectors made of it (adaLN)."""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place
from workloads.operators import Gemm, Modulation


@dataclass(frozen=True)
class NoiseLevel(Block):
    """The noise level of each sequence: waves of its value through two layers, a SiLU behind each."""

    waves: int
    width: int

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per sequence."""
        for name, inputs in (("in", self.waves), ("out", self.width)):
            yield f"noise_{name}", self, of_sequences(place, self.width, inputs)
            act = place.activation(self.width, "silu", gated=False, rows=place.step.batch)
            yield f"noise_{name}_act", self, act


@dataclass(frozen=True)
class FinalModulation(Block):
    """Shift and scale behind the last norm."""

    width: int  # of the condition

    def parts(self, place: Place) -> Iterator[Part]:
        """The vectors of each sequence, then all its positions."""
        yield "final_modulation", None, of_sequences(place, 2 * place.hidden, self.width)
        yield "final_shift_scale", None, modulated(place)


def of_sequences(place: Place, n: int, k: int) -> Gemm:
    """A projection with a bias of one row per sequence."""
    return place.linear(n, k, bias=True, rows=place.step.batch)


def modulated(place: Place, gate: bool = False) -> Modulation:
    """Shift and scale, or a gate, of all new positions."""
    step, wide = place.step, place.setting.precision.wide
    return Modulation(step.batch, step.q_len, place.hidden, gate, wide, place.fused)
