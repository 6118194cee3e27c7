"""Attention whose result is scaled by sigmoids of one more projection of its input: one a head, or one an
element (arXiv:2505.06708).
"""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import Part, Place


@dataclass(frozen=True)
class OutputGateBlock(AttentionBlock):
    """A matrix of its own yields the gates (Step 3.5, AFMoE, Laguna)."""

    by_head: bool = False  # a gate per head; else per element

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention, with the gate before the way back."""
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        columns = heads if self.by_head else width
        for name, key, operator in super().parts(place):
            if name == "o_proj":
                yield "output_gate", columns, place.linear(columns, place.hidden)
                yield "gate_mul", (width, columns), place.gate(width, columns)
            yield name, key, operator
