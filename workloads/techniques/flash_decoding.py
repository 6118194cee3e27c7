"""Flash-Decoding: the cache split over processors."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import KERNELS, Target, Technique


@dataclass(frozen=True)
class FlashDecoding(Technique):
    """The cache of a sequence is split over processors, whose partial results are combined."""

    name = "flash-decoding"
    aliases = ("split-kv",)
    level = "system"
    category = "graph and operator"
    paper = "Flash-Decoding, PyTorch blog 2023; FlashDecoding++ arXiv:2311.01282"
    removes = "idle processors where sequences and heads are fewer than processors"
    adds = "a partial result per split, and a small kernel that combines them"
    needs = "an attention kernel with splits"
    quality = "exact"
    slot = "how attention is spread over processors"
    order = KERNELS

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """What is counted already cannot be saved again."""
        return (
            "every ceiling here is that of a kernel that keeps all processors busy, so it is counted already"
        )

    def apply(self, schedule: Schedule) -> Schedule:
        """A floor has it already."""
        return schedule
