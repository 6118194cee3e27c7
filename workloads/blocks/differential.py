"""Differential attention: what half of the heads find is taken off what the other half find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import UNSCALED, Part, Place
from workloads.operators import Attention, Residual


@dataclass(frozen=True)
class DifferentialAttentionBlock(AttentionBlock):
    """Each head weighs the values of two KV heads (arXiv:2410.05258): it attends twice over one cache."""

    divided: ClassVar[Mapping[str, str]] = {"pairs": "pairs of attention heads"}

    @property
    def pairs(self) -> int:
        """Heads that are subtracted from another."""
        return self.heads // 2

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention with twice the query heads, then the difference and its norm.

        The factor of what is taken off is learned as two products of vectors as wide as a head.
        """
        pairs, precision = self.pairs // place.setting.tensor_parallel, place.setting.precision
        width = 2 * self.head_dim
        for name, key, operator in super().parts(place):
            if name != self.core_name:
                yield name, key, operator
                continue
            assert isinstance(operator, Attention)
            yield name, ("differential", key), replace(operator, heads=2 * operator.heads)
            shape = place.tokens, pairs * width, precision.wide, place.fused, 4 * self.head_dim
            yield "difference", shape[1:], Residual(*shape)
            norm = place.norm(place.tokens * pairs, width, UNSCALED)
            yield "difference_norm", (pairs, width), norm
