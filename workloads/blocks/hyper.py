"""Hyper-connections: several residual streams, collapsed for each block and mixed behind it.

Every device computes all of it (mHC, arXiv:2512.24880; DeepSeek-V4, HY-V4).
"""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, UNSCALED, Block, Part, Place
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Copy, Gemm, Residual, StreamCollapse, StreamSpread


@dataclass(frozen=True)
class Streams:
    """How many there are, and how often rows and columns of what mixes them are normalised (0: unmixed)."""

    count: int
    rounds: int

    def collapsed(self, place: Place, branch: str) -> Iterator[Part]:
        """One row of a token's streams, for the block that follows."""
        yield from _coefficients(place, f"{branch}_hyper", self, place.tokens, feeds=True)

    def spread(self, place: Place, branch: str) -> Iterator[Part]:
        """A block's result back to them."""
        wide = place.setting.precision.wide
        spread = StreamSpread(place.tokens, self.count, place.hidden, self.rounds > 0, wide)
        yield f"{branch}_hyper_spread", self, spread


def _coefficients(place: Place, name: str, streams: Streams, rows: Size, feeds: bool) -> Iterator[Part]:
    """All streams of a token are one row, normalised, and projected to coefficients, which stay wide."""
    wide, width = place.setting.precision.wide, streams.count * place.hidden
    sizes = rows, streams.count, place.hidden, streams.rounds
    collapse = StreamCollapse(*sizes, feeds, wide, place.fused)
    yield f"{name}_norm", streams, place.norm(rows, width, UNSCALED)
    yield f"{name}_proj", streams, Gemm(rows, collapse.coefficients, width, wide, wide, wide)
    yield f"{name}_collapse", streams, collapse


@dataclass(frozen=True)
class GatedStreams:
    """So many, each element of which has a gate of its own, made of all through a narrow rank (Qwen4-Exp)."""

    count: int
    rank: int

    def collapsed(self, place: Place, branch: str) -> Iterator[Part]:
        """The mean of a token's gated streams, for the block that follows, and their shares of its result."""
        yield from self.mean(place, f"{branch}_hyper", place.tokens, feeds=True)

    def spread(self, place: Place, branch: str) -> Iterator[Part]:
        """A block's result added to them in these shares."""
        sizes = place.tokens, self.count, place.hidden
        yield f"{branch}_hyper_spread", self, StreamSpread(*sizes, False, place.setting.precision.wide)

    def mean(self, place: Place, name: str, rows: Size, feeds: bool) -> Iterator[Part]:
        """Its projections stay wide."""
        wide, width = place.setting.precision.wide, self.count * place.hidden
        yield f"{name}_norm", self, place.norm(rows, width, RMS_NORM)
        yield f"{name}_down", self, Gemm(rows, self.rank, width, wide, wide, wide)
        yield f"{name}_act", self, place.activation(self.rank, "silu", gated=False, rows=rows)
        yield f"{name}_up", self, Gemm(rows, width, self.rank, wide, wide, wide)
        if feeds:
            yield f"{name}_shares", self, Gemm(rows, self.count, width, wide, wide, wide)
            yield f"{name}_shares_act", self, place.activation(self.count, "sigmoid", gated=False, rows=rows)
        yield f"{name}_gate_mul", self, place.activation(width, "sigmoid", gated=True, rows=rows)
        yield f"{name}_mean", self, Residual(rows * (self.count - 1), place.hidden, wide, place.fused)


@dataclass(frozen=True)
class LastStreams(Block):
    """Behind the last layer: the mean of all gated streams."""

    streams: GatedStreams

    def parts(self, place: Place) -> Iterator[Part]:
        """As before a block, but nothing is spread again."""
        yield from self.streams.mean(place, "last_hyper", place.behind_layers, feeds=False)


@dataclass(frozen=True)
class StreamCopies(Block):
    """Before the first layer each stream is the embedding."""

    streams: int

    def parts(self, place: Place) -> Iterator[Part]:
        """All but the one that the embedding's kernel writes."""
        element = bytes_per_element(place.setting.precision.wide)
        yield "hyper_copies", None, Copy(place.tokens * (self.streams - 1) * place.hidden * element)


@dataclass(frozen=True)
class StreamSum(Block):
    """Behind the last layer: one row of all streams, by coefficients of its own."""

    streams: int

    def parts(self, place: Place) -> Iterator[Part]:
        """As before a block, but nothing is spread again."""
        streams, rows = Streams(self.streams, 0), place.behind_layers
        yield from _coefficients(place, "hyper_head", streams, rows, feeds=False)


@dataclass(frozen=True)
class StreamMean(Block):
    """Behind the last layer: the mean of all streams."""

    streams: int

    def parts(self, place: Place) -> Iterator[Part]:
        """All but one are added to it."""
        rows, wide = place.behind_layers * (self.streams - 1), place.setting.precision.wide
        yield "hyper_mean", None, Residual(rows, place.hidden, wide, place.fused)
