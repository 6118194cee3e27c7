"""Alternating updates (AltUp, arXiv:2301.13310): several residual streams, of which layers compute one.

The first stream goes through the blocks. Before them all streams are predicted from all, behind them each is
corrected by what the blocks made of the first. Gemma 3n adds LAuReL's low-rank path (arXiv:2411.07501).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, UNSCALED, Block, Part, Place
from workloads.operators import Residual, StreamMix, StreamUpdate

CORRECTION = ("altup.correct_norm", "altup.correct_router")  # whose weights are the prediction's


@dataclass(frozen=True)
class _AltUp(Block):
    branch: ClassVar[str] = "altup"
    normalises: ClassVar[bool] = True
    adds: ClassVar[bool] = False
    replicated: ClassVar[bool] = True

    streams: int

    def _coefficients(self, place: Place, name: str, count: int) -> Iterator[Part]:
        """The first stream normalised, a value per stream of it, and the coefficients of these."""
        yield f"{name}_norm", None, place.norm(place.tokens, place.hidden, RMS_NORM)
        yield f"{name}_router", self, place.linear(self.streams, place.hidden)
        yield f"{name}_tanh", self, place.activation(self.streams, "tanh", gated=False)
        yield f"{name}_coefficients", self, place.linear(count, self.streams)


@dataclass(frozen=True)
class AltUpPrediction(_AltUp):
    """Every stream from all of them."""

    def parts(self, place: Place) -> Iterator[Part]:
        """Streams that no block reads move through memory here, once per layer, in any convention."""
        yield from self._coefficients(place, "predict", self.streams**2)
        mix = StreamMix(place.tokens, self.streams, place.hidden, place.setting.precision.wide)
        yield "predict_mix", self, mix


@dataclass(frozen=True)
class AltUpCorrection(_AltUp):
    """Every stream by its share of what the blocks changed."""

    def parts(self, place: Place) -> Iterator[Part]:
        """With the router of the prediction."""
        yield from self._coefficients(place, "correct", self.streams)
        wide, fused = place.setting.precision.wide, place.fused
        update = StreamUpdate(place.tokens, self.streams, place.hidden, True, wide, fused)
        yield "correct_update", self, update


@dataclass(frozen=True)
class LaurelBlock(Block):
    """The attention's normalised input through a low rank, beside the attention."""

    branch: ClassVar[str] = "laurel"
    normalises: ClassVar[bool] = True
    replicated: ClassVar[bool] = True

    rank: int

    def parts(self, place: Place) -> Iterator[Part]:
        """Down, up; the layer normalises and adds them, and here the input is added, too."""
        yield "left_proj", self, place.linear(self.rank, place.hidden)
        yield "right_proj", self, place.linear(place.hidden, self.rank)
        wide = place.setting.precision.wide
        yield "input_residual", None, Residual(place.tokens, place.hidden, wide, place.fused)


@dataclass(frozen=True)
class StreamsIn(Block):
    """The other streams: projections of the embedding, as long as it."""

    others: int

    def parts(self, place: Place) -> Iterator[Part]:
        """A matrix each."""
        yield from _projected(place, "altup_in", self.others, place.tokens)


@dataclass(frozen=True)
class StreamsOut(Block):
    """The mean of all streams, the others projected first."""

    others: int

    def parts(self, place: Place) -> Iterator[Part]:
        """A matrix each, and their mean."""
        rows = place.behind_layers
        yield from _projected(place, "altup_out", self.others, rows)
        wide = place.setting.precision.wide
        yield "altup_mean", None, Residual(rows * self.others, place.hidden, wide, place.fused)


def _projected(place: Place, name: str, others: int, rows: object) -> Iterator[Part]:
    for _ in range(others):
        yield f"{name}_proj", None, place.linear(place.hidden, place.hidden, rows=rows)
        yield f"{name}_norm", None, place.norm(rows, place.hidden, UNSCALED)
