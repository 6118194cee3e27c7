"""Skeleton-of-Thought: points of an answer in parallel."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.branches import in_branches
from workloads.techniques.conditions import no_parts


@dataclass(frozen=True)
class SkeletonOfThought(Technique):
    """The model writes a skeleton of points, then expands all points at once."""

    name = "skeleton-of-thought"
    aliases = ("sot",)
    category = "output organisation"
    paper = "Skeleton-of-Thought arXiv:2307.15337"
    removes = "decode steps: parts of the answer share each read of the weights"
    adds = "the instruction of each part; a cache for each part"
    needs = "answers that consist of independent points"
    quality = "lossy"
    slot = "how the answer is organised"
    refused_by = (no_parts,)
    assumed = ("points", "longest")

    skeleton: int = parameter(
        40, "tokens of the skeleton: 3 to 10 points of 3 to 5 words", low=1, high=10_000
    )
    points: float = parameter(6.0, "points expanded at once (its prompt asks for 3 to 10)", low=1, high=100)
    instruction: int = parameter(
        100, "tokens of the expansion's instruction, read for every point", low=0, high=100_000
    )
    longest: float = parameter(1.3, "longest point over the mean", low=1, high=100)

    def apply(self, schedule: Schedule) -> Schedule:
        """Points are sequences of one batch that share their prefix."""
        return in_branches(schedule, self.skeleton, self.points, self.instruction, self.longest)
