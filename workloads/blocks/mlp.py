"""The feed-forward block: two matrices, or three where the activation is gated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, NormShape, Part, Place


@dataclass(frozen=True)
class MlpBlock(Block):
    """Its inner width, activation and matrices."""

    branch: ClassVar[str] = "mlp"
    divided: ClassVar[Mapping[str, str]] = {"width": "MLP width"}

    width: int
    activation: str
    gated: bool = True  # three matrices: act(gate(x)) * up(x), then down
    bias: bool = False
    fused_gate_up: bool = False
    inner_norm: NormShape | None = None  # of what the last matrix reads (BitNet)

    def parts(self, place: Place) -> Iterator[Part]:
        """Up (and gate), the activation, down."""
        width = self.width // place.setting.tensor_parallel
        if self.fused_gate_up:
            yield "gate_up_proj", self, place.linear(2 * width, place.hidden, self.bias)
        else:
            for name in ("gate_proj", "up_proj") if self.gated else ("up_proj",):
                yield name, self, place.linear(width, place.hidden, self.bias)
        yield "act_mul", self, place.activation(width, self.activation, self.gated)
        if self.inner_norm is not None:
            yield from place.squares("inner_norm")
            yield "inner_norm", self, place.norm(place.tokens, width, self.inner_norm)
        yield "down_proj", self, place.linear(place.hidden, width, self.bias)


@dataclass(frozen=True)
class ConditionedMlpBlock(MlpBlock):
    """An MLP whose input is scaled by a vector, made in each layer of one that all positions share.

    Voxtral Realtime: by its delay, through a narrow rank.
    """

    rank: int = 0

    def parts(self, place: Place) -> Iterator[Part]:
        """The vector, the product, the MLP."""
        hidden, rank = place.hidden, self.rank
        yield "condition_down_proj", rank, place.linear(rank, hidden, rows=1)
        yield "condition_act", rank, place.activation(rank, "gelu", gated=False, rows=1)
        yield "condition_up_proj", rank, place.linear(hidden, rank, rows=1)
        yield "condition_mul", None, place.activation(hidden, "identity", gated=True)
        yield from super().parts(place)
