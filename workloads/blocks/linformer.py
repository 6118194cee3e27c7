"""Attention of low rank: keys and values shortened along the sequence (Linformer, arXiv:2006.04768)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place
from workloads.blocks.encoder import unmasked
from workloads.operators import PositionProjection


@dataclass(frozen=True)
class LinformerBlock(Block):
    """Every position sees `rank` mixtures of all positions; nothing is cached.

    One matrix for keys and one for values, or one for both (`shared`), serve all heads of a layer.
    """

    branch: ClassVar[str] = "attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads"}

    heads: int
    head_dim: int
    rank: int
    positions: int
    shared: bool = False
    bias: bool = False
    out_bias: bool = False

    def parts(self, place: Place) -> Iterator[Part]:
        """Projections, keys and values along the sequence, the core, the way back."""
        step, p = place.step, place.setting.precision
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            yield name, self, place.linear(width, place.hidden, self.bias)
        for name, tied in (("k_positions", False), ("v_positions", self.shared)):
            sizes, formats = (step.batch * width, self.rank, step.q_len), (p.activations, p.weights, p.wide)
            yield name, self, PositionProjection(*sizes, *formats, tied=tied, positions=self.positions)
        yield "core", self, unmasked(place, self.rank, heads, self.head_dim)
        yield "o_proj", self, place.linear(place.hidden, width, self.out_bias)
