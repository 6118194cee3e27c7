"""What several residual streams of one token exchange (AltUp, arXiv:2301.13310)."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.operators.elementwise import stream, streamed
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
