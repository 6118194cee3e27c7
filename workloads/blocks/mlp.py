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
            yield "inner_norm", self, place.norm(place.tokens, width, self.inner_norm)
        yield "down_proj", self, place.linear(place.hidden, width, self.bias)
