"""Per-layer embeddings (Gemma 3n, Gemma 4): each layer has an embedding of its own of every token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Block, Part, Place
from workloads.operators import Embedding, Residual, StreamUpdate


@dataclass(frozen=True)
class PerLayerTable(Block):
    """The embeddings of all layers side by side, to which projections of the first embedding are added."""

    vocabulary: int
    layers: int
    width: int  # of one layer's

    def parts(self, place: Place) -> Iterator[Part]:
        """One row per token of both, and their sum."""
        p, all_layers = place.setting.precision, self.layers * self.width
        part = place.share_of(self.vocabulary)
        table = Embedding(place.tokens, part, all_layers, weights=p.tables, outputs=p.wide)
        yield "per_layer_embedding", None, table
        yield from place.sum_over_devices("per_layer_embedding", all_layers)
        yield "per_layer_projection", None, place.linear(all_layers, place.hidden)
        rows = place.tokens * self.layers
        yield "per_layer_projection_norm", None, place.norm(rows, self.width, RMS_NORM)
        yield "per_layer_sum", None, Residual(place.tokens, all_layers, p.wide, place.fused)


@dataclass(frozen=True)
class PerLayerBlock(Block):
    """The stream through a narrow gate on the layer's embedding, and back; small, so whole on each device."""

    branch: ClassVar[str] = "per_layer"
    normalises: ClassVar[bool] = True
    adds: ClassVar[bool] = False
    replicated: ClassVar[bool] = True

    width: int
    activation: str
    streams: int = 1  # that the result is added to

    def parts(self, place: Place) -> Iterator[Part]:
        """Down, the gate, up, the norm, the sum."""
        yield "gate_proj", self, place.linear(self.width, place.hidden)
        yield "act_mul", self, place.activation(self.width, self.activation, gated=True)
        yield "up_proj", self, place.linear(place.hidden, self.width)
        yield "norm", None, place.norm(place.tokens, place.hidden, RMS_NORM)
        wide, sizes = place.setting.precision.wide, (place.tokens, self.streams, place.hidden)
        yield "residual", self.streams, StreamUpdate(*sizes, dtype=wide, fused=place.fused)
