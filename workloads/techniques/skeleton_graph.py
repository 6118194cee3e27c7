"""Skeleton graph decoding: points in the order of their dependencies."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.branches import in_branches
from workloads.techniques.conditions import no_parts


@dataclass(frozen=True)
class SkeletonGraph(Technique):
    """Points name the points they depend on; those without open dependencies are expanded at once."""

    name = "skeleton-graph-decoding"
    aliases = ("sgd", "skeleton-graph")
    category = "output organisation"
    paper = "Adaptive Skeleton Graph Decoding arXiv:2402.12280"
    removes = "decode steps: parts of the answer share each read of the weights"
    adds = "the instruction of each part; a cache for each part"
    needs = "answers whose points depend on few others"
    quality = "lossy"
    slot = "how the answer is organised"
    refused_by = (no_parts,)
    assumed = ("points", "levels")

    skeleton: int = parameter(60, "tokens of the skeleton and its dependencies", low=1, high=10_000)
    points: float = parameter(6.0, "points of the answer", low=1, high=100)
    levels: float = parameter(2.0, "points on the longest chain of dependencies", low=1, high=100)
    instruction: int = parameter(
        100, "tokens of the expansion's instruction, read for every point", low=0, high=100_000
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """A whole answer is needed, and no more levels than points."""
        if self.levels > self.points:
            return f"{self.levels:g} levels need more than {self.points:g} points"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """Points are sequences of one batch that share their prefix; each level is a batch of its own."""
        width = self.points / self.levels
        return in_branches(schedule, self.skeleton, width, self.instruction, 1.0, self.levels)
