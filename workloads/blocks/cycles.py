"""What stands before a stack of layers that runs several times over two states (HRM-Text)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import UNSCALED, Block, Part, Place
from workloads.operators import Residual


@dataclass(frozen=True)
class CycleStart(Block):
    """The sum of both states; that of the stack that ran before is normalised, at first it is a vector."""

    branch: ClassVar[str] = "cycle"
    normalises: ClassVar[bool] = True
    adds: ClassVar[bool] = False
    replicated: ClassVar[bool] = True

    first: bool = False

    def parts(self, place: Place) -> Iterator[Part]:
        """A norm, which has no scale, and the sum."""
        tokens, hidden = place.tokens, place.hidden
        if not self.first:
            yield "norm", None, place.norm(tokens, hidden, UNSCALED)
        learned = hidden if self.first else 0
        yield "sum", learned, Residual(tokens, hidden, place.setting.precision.wide, place.fused, learned)
