"""Lightning attention: linear attention whose sums decay, behind an activation and before a gated norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, NormShape, Part, Place
from workloads.blocks.recurrent import RecurrentBlock
from workloads.operators import LinearAttention, Rope
from workloads.step import Setting, Step


@dataclass(frozen=True)
class LightningBlock(RecurrentBlock):
    """The mixer of MiniMax-01 (arXiv:2501.08313, section 2.2) and of Ling 2.5, which rotates."""

    branch: ClassVar[str] = "lightning"
    divided: ClassVar[Mapping[str, str]] = {"heads": "heads of lightning attention"}

    heads: int
    head_dim: int
    chunk: int
    activation: str  # of queries, keys and values; empty for none
    rotary_dim: int = 0
    qk_norm: NormShape | None = None
    norm_groups: int = 1  # of heads, which are normalised apart

    def parts(self, place: Place) -> Iterator[Part]:
        """Queries, keys and values, their activation, the sums, a norm of all heads, a gate, the way back."""
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        yield "qkv_proj", self, place.linear(3 * width, place.hidden)
        if self.activation:
            yield "qkv_act", self, place.activation(3 * width, self.activation, gated=False)
        if self.qk_norm is not None:
            for name in ("q_norm", "k_norm"):
                yield name, self, place.norm(place.tokens * heads, self.head_dim, self.qk_norm)
        if self.rotary_dim:
            yield (
                "rope",
                self,
                Rope(place.tokens, 2 * heads, self.rotary_dim, place.setting.precision.wide, place.fused),
            )
        yield "core", self, *self.states(place.step, place.setting)
        if self.norm_groups % place.setting.tensor_parallel:
            yield from place.squares("norm")
        yield "norm", self, place.norm(place.tokens, width, RMS_NORM)
        yield "output_gate", self, place.linear(width, place.hidden)
        yield "gate_mul", self, place.activation(width, "sigmoid", gated=True)
        yield "out_proj", self, place.linear(place.hidden, width)

    def states(self, step: Step, setting: Setting) -> tuple[LinearAttention]:
        """The sums of outer products of keys and values."""
        heads, wide = self.heads // setting.tensor_parallel, setting.precision.wide
        sizes = *step.sizes, heads, self.head_dim, self.head_dim
        return (LinearAttention(*sizes, self.chunk, wide, wide, normalised=False, decayed=True),)
