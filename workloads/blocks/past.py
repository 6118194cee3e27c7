"""Attention residuals: a block reads a choice among the sums of earlier blocks of layers (Kimi K3)."""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place
from workloads.dtypes import Size
from workloads.operators import ResidualChoice


@dataclass(frozen=True)
class PastSums:
    """Sums of `earlier` blocks of layers beside the running one; a layer may begin the next of them."""

    earlier: int
    begins: bool = False

    def collapsed(self, place: Place, branch: str) -> Iterator[Part]:
        """What the block reads; the MLP of a layer that begins chooses among one more."""
        behind = self.begins and branch == "mlp"
        sources = self.earlier + 1 + behind
        choice = _choice(place, sources, place.tokens, self.begins and not behind)
        yield f"{branch}_choice_of_{sources}", (sources, choice.begins), choice

    def spread(self, place: Place, branch: str) -> Iterator[Part]:
        """Nothing: the next choice adds the result to the running sum."""
        return iter(())


@dataclass(frozen=True)
class LastChoice(Block):
    """Behind the last layer, among the sums of all blocks."""

    earlier: int

    def parts(self, place: Place) -> Iterator[Part]:
        """One more choice."""
        yield "last_choice", None, _choice(place, self.earlier + 1, place.behind_layers, begins=False)


def _choice(place: Place, sources: int, rows: Size, begins: bool) -> ResidualChoice:
    wide = place.setting.precision.wide
    return ResidualChoice(rows, sources, place.hidden, begins, wide, wide, place.fused)
