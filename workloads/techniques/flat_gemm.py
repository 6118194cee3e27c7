"""Flat matrix products."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import KERNELS, Target, Technique


@dataclass(frozen=True)
class FlatGemm(Technique):
    """Products with few rows are padded to eight rows instead of sixty-four, and double-buffered."""

    name = "flat-gemm"
    aliases = ("flashdecoding++",)
    level = "system"
    category = "graph and operator"
    paper = "FlashDecoding++ arXiv:2311.01282"
    removes = "padded rows of small batches"
    adds = "nothing"
    needs = "kernels for few rows"
    quality = "exact"
    slot = "how flat products are tiled"
    order = KERNELS

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """What is counted already cannot be saved again."""
        return "the ceilings count no padded rows, so it is counted already"

    def apply(self, schedule: Schedule) -> Schedule:
        """A floor has it already."""
        return schedule
