"""Sparse attention: window, global and random positions."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import on, within
from workloads.techniques.conditions import no_heads


@dataclass(frozen=True)
class BigBird(Technique):
    """Every position sees a window, a few global positions and a few random ones."""

    name = "bigbird"
    aliases = ("block-sparse-attention", "longformer-global")
    category = "sparsification"
    paper = "BigBird arXiv:2007.14062"
    removes = "attention to all other positions; keys and values stay"
    adds = "nothing"
    needs = "a model trained or fine-tuned with it; a block-sparse kernel"
    quality = "retrained"
    slot = "which positions are attended to"
    applies_with = "the kind of attention"
    refused_by = (no_heads,)

    window: int = parameter(192, "positions of the window (BigBird: 3 blocks of 64)", low=1, high=10_000_000)
    first: int = parameter(128, "global positions (BigBird: 2 blocks)", low=0, high=10_000_000)
    random: int = parameter(192, "random positions (BigBird: 3 blocks)", low=0, high=10_000_000)

    def apply(self, schedule: Schedule) -> Schedule:
        """The work of a window of all three sizes together, but every key stays in memory."""
        seen = self.window + self.first + self.random
        return schedule.with_change(on(Attention, lambda core: within(core, seen)), held=False)
