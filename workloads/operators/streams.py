"""What several residual streams of one token exchange, or a block reads of earlier parts of one.

AltUp (arXiv:2301.13310), hyper-connections whose mixing is doubly stochastic (mHC, arXiv:2512.24880), and
attention residuals (Kimi K3; vLLM, models/kimi_k3/nvidia/ops/attn_res.py).
"""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.operators.elementwise import stream, streamed, weighted
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class StreamMix(Operator):
    """Each of x[streams, tokens, width] plus a combination of all, by a matrix of the token's own."""

    kind: ClassVar[str] = "stream_mix"

    tokens: Size
    streams: int
    width: Size
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """A product with streams x streams coefficients per token, and 1 FLOP per element to add it."""
        elements = self.tokens * self.streams * self.width
        return streamed(
            self.dtype,
            self.fused,
            elements + self.tokens * self.streams**2,
            elements,
            matrix_flops=2 * self.streams * elements,
            vector_flops=elements,
        )


@dataclass(frozen=True)
class StreamUpdate(Operator):
    """To each of x[streams, tokens, width] one y[tokens, width]: the same for all, or what AltUp corrects.

    That is y less the first stream, times a factor per stream and token; what comes next reads the first
    stream times a learned factor per column.
    """

    kind: ClassVar[str] = "stream_update"

    tokens: Size
    streams: int
    width: Size
    corrects: bool = False
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """1 FLOP per element to add, 1 to scale; 2 per element of y for the difference and its factor."""
        one, element = self.tokens * self.width, bytes_per_element(self.dtype)
        elements = self.streams * one
        read = elements + one + (self.tokens * self.streams if self.corrects else 0)
        traffic = stream(self.fused, read * element, elements * element)
        if self.corrects:
            traffic += (Traffic("weight", Role.WEIGHT, self.width * element),)
        return Work(
            dtype=self.dtype,
            traffic=traffic,
            vector_flops=2 * elements + 2 * one if self.corrects else elements,
            outputs=elements,
            fused=self.fused,
        )

    @property
    def weights(self) -> DtypeLike:
        """The format of its parameters: that of its streams."""
        return self.dtype

    def parameters(self) -> int:
        """The learned factors."""
        return int(self.width) if self.corrects else 0


@dataclass(frozen=True)
class StreamCollapse(Operator):
    """One row of x[streams, tokens, width], each stream by a sigmoid of a projected coefficient.

    Where a block follows (`feeds`) the same projection yields how its result is spread over the streams, and
    with `rounds` how these mix: a matrix per token, whose rows and columns are normalised so often in turn.
    """

    kind: ClassVar[str] = "stream_collapse"

    tokens: Size
    streams: int
    width: Size
    rounds: int = 20
    feeds: bool = True
    dtype: DtypeLike = "bf16"
    fused: bool = False

    @property
    def coefficients(self) -> int:
        """Of a token: to collapse, to spread and to mix."""
        return self.streams * (1 + bool(self.feeds) + (self.streams if self.rounds else 0))

    def work(self) -> Work:
        """2 FLOP per element; a scale, a bias and an exponential per coefficient; a sum and a division per
        entry of a mixing matrix, for its rows and for its columns.
        """
        elements = self.tokens * self.streams * self.width
        found = self.tokens * self.coefficients
        normalised = max(0, 2 * self.rounds - 1) * 2 * self.tokens * self.streams**2
        kept = found - self.tokens * self.streams  # what is needed behind the block
        work = streamed(
            self.dtype,
            self.fused,
            elements + found,
            self.tokens * self.width + kept,
            vector_flops=2 * elements + 2 * found + normalised,
            special_ops=found,
        )
        return weighted(work, self.stored_bytes())

    @property
    def weights(self) -> DtypeLike:
        """The format of its parameters: that of its streams."""
        return self.dtype

    def parameters(self) -> int:
        """A bias per coefficient, and a scale for each of their uses."""
        return self.coefficients + 1 + bool(self.feeds) + (self.rounds > 0)


@dataclass(frozen=True)
class StreamSpread(Operator):
    """x[streams, tokens, width], mixed by a matrix of each token or not, plus y[tokens, width] in shares.

    Streams move through memory here whatever is fused: no block reads them before the next mixing.
    """

    kind: ClassVar[str] = "stream_spread"

    tokens: Size
    streams: int
    width: Size
    mixes: bool = True
    dtype: DtypeLike = "bf16"

    def work(self) -> Work:
        """A product with streams x streams coefficients per token, and 2 FLOP per element for y."""
        one = self.tokens * self.width
        elements = self.streams * one
        return streamed(
            self.dtype,
            False,
            elements + one + self.tokens * self.streams * (self.streams * bool(self.mixes) + 1),
            elements,
            matrix_flops=2 * self.streams * elements * bool(self.mixes),
            vector_flops=2 * elements,
        )


@dataclass(frozen=True)
class ResidualChoice(Operator):
    """A sum of rows[tokens, sources, width], by a softmax of each normalised row's product with one vector.

    The last source is a running sum, to which `y` of the block before is added first. A block of layers
    `begins` with a copy of that sum, which becomes one more source.
    """

    kind: ClassVar[str] = "residual_choice"

    tokens: Size
    sources: int
    width: Size
    begins: bool = False
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    fused: bool = False  # what reads the sum takes it from the chip; sources lie in memory in any case

    def work(self) -> Work:
        """Of a source 2 FLOP per element each for length, product and share, a root and an exponential.

        1 per element of y, which is all that a single source needs.
        """
        row, element = self.tokens * self.width, bytes_per_element(self.dtype)
        chosen = self.tokens * self.sources if self.sources > 1 else 0
        written = 1 + bool(self.begins) + (not self.fused)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("sources, y", Role.INPUT, (self.sources + 1) * row * element),
                Traffic("weight", Role.WEIGHT, 2 * self.width * bytes_per_element(self.weights)),
                Traffic("sums", Role.OUTPUT, written * row * element),
            ),
            vector_flops=6 * chosen * self.width + row,
            special_ops=2 * chosen,
            outputs=row,
        )

    def parameters(self) -> int:
        """The norm's scale and the vector."""
        return int(2 * self.width)
