"""Unstructured sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workloads.dtypes import bytes_per_element
from workloads.operators import Changed
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import on_projections, with_weights


@dataclass(frozen=True)
class Unstructured(Technique):
    """Single weights are zero wherever they matter least; dense matrix units multiply the zeros."""

    name = "unstructured-sparsity"
    aliases = ("sparsegpt", "wanda", "magnitude-pruning")
    category = "sparsification"
    paper = "SparseGPT arXiv:2301.00774; Wanda arXiv:2306.11695"
    removes = "bytes of weights, where they are stored compressed; no work on dense units"
    adds = "a bit per weight that says whether it is zero, and unpacking"
    needs = "pruning with calibration data; a kernel that unpacks, without which nothing is gained"
    quality = "lossy"
    slot = "which weights are zero"

    sparsity: float = parameter(0.5, "share of zeros (SparseGPT: 0.5 to 0.6)", low=0, high=0.99)
    stored: str = parameter(
        "bitmap", "how weights are kept: as a bitmap and the values, or dense", among=("bitmap", "dense")
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """The products stay: dense units cannot skip single zeros."""
        if self.stored == "dense" or not self.sparsity:
            return schedule
        return schedule.with_change(on_projections(self._packed))

    def _packed(self, product: Any) -> Changed:
        bits = 8 * bytes_per_element(product.weights)
        return with_weights(product, min(1.0, 1 - self.sparsity + 1 / bits))
