"""Flat matrix products."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter

TILE = 64  # rows that cuBLAS and CUTLASS pad to (arXiv:2311.01282, section 4)


@dataclass(frozen=True)
class FlatGemm(Technique):
    """Products with few rows are padded to eight rows instead of sixty-four.

    This matters where padded rows would take longer than reading the weights: with narrow formats, or on
    devices of few FLOP per byte. All predictions assume double buffering.
    """

    name = "flat-gemm"
    aliases = ("flashdecoding++", "flat-matmul")
    category = "graph and operator"
    paper = "FlashDecoding++ arXiv:2311.01282"
    removes = "multiplications with padded rows of small batches"
    adds = "nothing"
    needs = "kernels for few rows"
    quality = "exact"
    slot = "how flat products are tiled"
    example = "Llama-3.1-8B --hw h20 --batch 4"
    without = {"padded_rows": TILE}

    rows: int = parameter(8, "rows of the smallest tile (the paper: 8)", low=1, high=TILE)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        return self.already(schedule.convention) if schedule.convention.padded_rows <= self.rows else None

    def apply(self, schedule: Schedule) -> Schedule:
        """Rows are padded to a smaller tile; the product's traffic is unchanged."""
        return schedule.with_convention(padded_rows=self.rows)
