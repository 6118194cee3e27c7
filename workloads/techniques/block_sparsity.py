"""Block sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workloads.dtypes import bytes_per_element
from workloads.operators import Changed
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import on_projections, with_weights

INDEX_BYTES = 4


@dataclass(frozen=True)
class BlockSparsity(Technique):
    """Whole blocks of the projections are zero; kernels skip them."""

    name = "block-sparsity"
    aliases = ("bsr", "block-sparse-weights")
    category = "sparsification"
    paper = "Gray et al., GPU kernels for block-sparse weights, OpenAI 2017"
    removes = "work and weights of the zero blocks"
    adds = "an index of 32 bits per block that stays"
    needs = "pruning by blocks, and training; block-sparse kernels"
    quality = "retrained"
    slot = "which weights are zero"

    sparsity: float = parameter(0.5, "share of zero blocks", low=0, high=0.99)
    block: int = parameter(64, "edge of a block; matrix units want 16 or more", low=16, high=1024)

    def apply(self, schedule: Schedule) -> Schedule:
        """A block that stays runs at the dense rate."""
        return schedule.with_change(on_projections(self._skip)) if self.sparsity else schedule

    def _skip(self, product: Any) -> Changed:
        index = INDEX_BYTES / (self.block**2 * bytes_per_element(product.weights))
        kept = 1 - self.sparsity
        return with_weights(product, kept * (1 + index), kept)
