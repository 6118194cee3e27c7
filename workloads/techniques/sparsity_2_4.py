"""2:4 structured sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workloads.dtypes import bytes_per_element
from workloads.operators import Changed
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique
from workloads.techniques.changes import on_projections, with_weights

KEPT = 0.5
INDEX_BITS = 2  # per kept weight: its position among four


@dataclass(frozen=True)
class TwoOfFour(Technique):
    """Of every four weights along the inner dimension two are zero, and the matrix units skip them."""

    name = "sparsity-2:4"
    aliases = ("2:4", "semi-structured-sparsity", "sparsity-2-4")
    category = "sparsification"
    paper = "Mishra et al. arXiv:2104.08378; SparseGPT arXiv:2301.00774; Wanda arXiv:2306.11695"
    removes = "half of the multiplications and of the weights of the layers' projections"
    adds = "two index bits per kept weight"
    needs = "matrix units with 2:4 sparsity; pruning with calibration data"
    quality = "lossy"
    slot = "which weights are zero"

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Units without 2:4 gain nothing from zeros."""
        if not target.structured_sparsity:
            return f"{target.name} has no matrix units for 2:4 sparsity"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The zeros are neither stored nor multiplied: at the dense rate, half the time."""
        return schedule.with_change(on_projections(_halved))


def _halved(product: Any) -> Changed:
    index = INDEX_BITS / (8 * bytes_per_element(product.weights))
    return with_weights(product, KEPT * (1 + index), KEPT)
