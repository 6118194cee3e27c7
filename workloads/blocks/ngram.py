"""Embeddings of n-grams by hashes, gated by every residual stream and added to it (Qwen4-Exp)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.blocks.recurrent import RecurrentBlock, convolution
from workloads.operators import CausalConv, Embedding, Residual
from workloads.step import Setting, Step


@dataclass(frozen=True)
class NgramBlock(RecurrentBlock):
    """Rows of one table, by hashes of the last tokens; keys and a value of these; a convolution.

    Devices share the table's columns; what they read is put together in one collective.
    """

    branch: ClassVar[str] = "ngram"
    divided: ClassVar[Mapping[str, str]] = {"width": "columns of n-gram embeddings"}
    normalises: ClassVar[bool] = True
    adds: ClassVar[bool] = False
    of_streams: ClassVar[bool] = True

    streams: int
    hidden: int
    rows: int  # of the table
    heads: int  # rows that a token reads
    width: int  # of all of them together
    kernel: int
    dilation: int

    def parts(self, place: Place) -> Iterator[Part]:
        """The table, projections, a sigmoid of a dot product per stream, the convolution, both sums."""
        p, all_streams = place.setting.precision, self.streams * place.hidden
        columns = self.width // self.heads / place.setting.tensor_parallel
        table = Embedding(place.tokens * self.heads, self.rows, columns, weights=p.tables, outputs=p.wide)
        yield "embedding", self, table
        yield "key_proj", self, place.linear(all_streams, self.width)
        yield "value_proj", self, place.linear(place.hidden, self.width)
        for name in ("key_norm", "query_norm"):
            yield name, self, place.norm(place.tokens, all_streams, RMS_NORM)
        yield "dot_mul", self, place.activation(all_streams, "identity", gated=True)
        yield "gate_mul", self, place.gate(all_streams, self.streams)
        yield "conv_norm", self, place.norm(place.tokens, all_streams, RMS_NORM)
        yield "conv1d", self, *self.states(place.step, place.setting)
        for name in ("conv_sum", "residual"):
            yield name, self, Residual(place.tokens, all_streams, p.wide, place.fused)

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv]:
        """The convolution, whose taps stand apart."""
        channels = self.streams * self.hidden
        conv = convolution(step, setting, channels, self.kernel, bias=False)
        return (replace(conv, dilation=self.dilation),)
