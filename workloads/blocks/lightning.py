"""Lightning attention: linear attention whose sums decay, behind an activation and before a gated norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.blocks.recurrent import RecurrentBlock
from workloads.operators import LinearAttention
from workloads.step import Setting, Step


@dataclass(frozen=True)
class LightningBlock(RecurrentBlock):
    """The mixer of MiniMax-01 (arXiv:2501.08313, section 2.2)."""

    branch: ClassVar[str] = "lightning"
    divided: ClassVar[Mapping[str, str]] = {"heads": "heads of lightning attention"}

    heads: int
    head_dim: int
    chunk: int
    activation: str

    def parts(self, place: Place) -> Iterator[Part]:
        """Queries, keys and values, their activation, the sums, a norm of all heads, a gate, the way back."""
        width = self.heads // place.setting.tensor_parallel * self.head_dim
        yield "qkv_proj", self, place.linear(3 * width, place.hidden)
        yield "qkv_act", self, place.activation(3 * width, self.activation, gated=False)
        yield "core", self, *self.states(place.step, place.setting)
        yield "norm", self, place.norm(place.tokens, width, RMS_NORM)
        yield "output_gate", self, place.linear(width, place.hidden)
        yield "gate_mul", self, place.activation(width, "sigmoid", gated=True)
        yield "out_proj", self, place.linear(place.hidden, width)

    def states(self, step: Step, setting: Setting) -> tuple[LinearAttention]:
        """The sums of outer products of keys and values."""
        heads, wide = self.heads // setting.tensor_parallel, setting.precision.wide
        sizes = *step.sizes, heads, self.head_dim, self.head_dim
        return (LinearAttention(*sizes, self.chunk, wide, wide, normalised=False, decayed=True),)
