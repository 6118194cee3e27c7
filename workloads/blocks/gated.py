"""Attention whose result is scaled by sigmoids of one more projection of its input: one a head, or one an
element (arXiv:2505.06708).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import UNSCALED, Part, Place


@dataclass(frozen=True)
class OutputGateBlock(AttentionBlock):
    """A matrix of its own yields the gates (Step 3.5, AFMoE, Laguna, Beam, Muse)."""

    by_head: bool = False  # a gate per head; else per element
    gate_bias: bool = False  # one for all gates of a head (Beam)
    head_norm: bool = False  # the result of each head is normalised before, without a scale (Muse Spark)

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention, with the gate before the way back."""
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        columns = heads if self.by_head else width
        for name, key, operator in super().parts(place):
            if name == "o_proj":
                if self.head_norm:
                    norm = place.norm(place.tokens * heads, self.head_dim, UNSCALED)
                    yield "head_norm", (heads, self.head_dim), norm
                yield "output_gate", columns, place.linear(columns, place.hidden)
                gate = replace(place.gate(width, columns), learned=heads if self.gate_bias else 0)
                yield "gate_mul", (width, columns, self.gate_bias), gate
            yield name, key, operator
