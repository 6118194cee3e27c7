"""Weights that are zero, and kernels that skip them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workloads.dtypes import bytes_per_element
from workloads.operators import Changed
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
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
    on_arrays = True

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
    on_arrays = True

    sparsity: float = parameter(0.5, "share of zero blocks", low=0, high=0.99)
    block: int = parameter(64, "edge of a block; matrix units want 16 or more", low=16, high=1024)

    def apply(self, schedule: Schedule) -> Schedule:
        """A block that stays runs at the dense rate."""
        return schedule.with_change(on_projections(self._skip)) if self.sparsity else schedule

    def _skip(self, product: Any) -> Changed:
        index = INDEX_BYTES / (self.block**2 * bytes_per_element(product.weights))
        kept = 1 - self.sparsity
        return with_weights(product, kept * (1 + index), kept)


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
    on_arrays = True

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
