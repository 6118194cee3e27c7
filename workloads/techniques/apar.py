"""APAR: the model forks its own answer."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.branches import in_branches
from workloads.techniques.conditions import no_parts


@dataclass(frozen=True)
class Apar(Technique):
    """The model marks forks in its answer, and the branches are decoded in parallel."""

    name = "apar"
    aliases = ("auto-parallel",)
    category = "output organisation"
    paper = "APAR arXiv:2401.06761"
    removes = "decode steps: parts of the answer share each read of the weights"
    adds = "a cache for each part"
    needs = "a model fine-tuned to mark forks"
    quality = "retrained"
    slot = "how the answer is organised"
    refused_by = (no_parts,)
    assumed = ("branches", "longest")

    branches: float = parameter(2.0, "branches written at once, on average", low=1, high=100)
    head: int = parameter(10, "tokens before the first fork", low=0, high=10_000)
    longest: float = parameter(1.3, "longest branch over the mean", low=1, high=100)

    def apply(self, schedule: Schedule) -> Schedule:
        """Branches are sequences of one batch that share their prefix."""
        return in_branches(schedule, self.head, self.branches, 0, self.longest)
