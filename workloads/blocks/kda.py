"""Kimi delta attention (arXiv:2510.26692): the gated delta rule with a decay for each channel of a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.blocks.recurrent import RecurrentBlock, convolution
from workloads.operators import CausalConv, GatedDelta
from workloads.step import Setting, Step


@dataclass(frozen=True)
class KdaBlock(RecurrentBlock):
    """Projections, a convolution of q, k and v, the rule, a norm of heads with a gate, the way back.

    Decays and gates go through a rank of one head's width; Kimi K3's gates do not, Ling 3's are both whole.
    """

    branch: ClassVar[str] = "delta"
    divided: ClassVar[Mapping[str, str]] = {"heads": "heads of linear attention"}

    heads: int
    head_dim: int
    kernel: int
    full_rank_gate: bool = False
    full_rank_decay: bool = False

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution; every device makes the narrow projections whole."""
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            yield name, width, place.linear(width, place.hidden)
        conv, rule = self.states(place.step, place.setting)
        yield "conv1d", self, conv
        if self.full_rank_decay:
            yield "decay", width, place.linear(width, place.hidden)
        else:
            yield from self._through(place, "decay", width)
        yield "b_proj", heads, place.linear(heads, place.hidden)
        yield "rule", self, rule
        if self.full_rank_gate:
            yield "output_gate", width, place.linear(width, place.hidden)
        else:
            yield from self._through(place, "output_gate", width)
        yield "norm", self, place.norm(place.tokens * heads, self.head_dim, RMS_NORM)
        yield "gate_mul", width, place.activation(width, "sigmoid", gated=True)
        yield "out_proj", width, place.linear(place.hidden, width)

    def _through(self, place: Place, name: str, width: int) -> Iterator[Part]:
        yield f"{name}_in", self.head_dim, place.linear(self.head_dim, place.hidden)
        yield f"{name}_out", width, place.linear(width, self.head_dim)

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv, GatedDelta]:
        """The convolution and the rule, whose state is in fp32."""
        heads, wide = self.heads // setting.tensor_parallel, setting.precision.wide
        formats: dict[str, Any] = {"dtype": wide, "weights": wide, "state_dtype": "fp32"}
        sizes = *step.sizes, heads, heads, self.head_dim, self.head_dim
        conv = convolution(step, setting, 3 * heads * self.head_dim, self.kernel, bias=False)
        return conv, GatedDelta(*sizes, **formats, channelwise=True)
