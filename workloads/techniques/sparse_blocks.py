"""Sparse attention: window, global and random positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.arrays import minimum
from workloads.blocks import AttentionBlock
from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import STRUCTURE, Target, Technique, parameter
from workloads.techniques.changes import blocks, on


@dataclass(frozen=True)
class BigBird(Technique):
    """Every position sees a window, a few global positions and a few random ones."""

    name = "bigbird"
    aliases = ("block-sparse-attention", "longformer-global")
    level = "model"
    category = "sparsification"
    paper = "BigBird arXiv:2007.14062"
    removes = "attention to all other positions; keys and values stay"
    adds = "nothing"
    needs = "a model trained or fine-tuned with it; a block-sparse kernel"
    quality = "retrained"
    slot = "which positions are attended to"
    order = STRUCTURE

    window: int = parameter(192, "positions of the window (BigBird: 3 blocks of 64)", low=1, high=10_000_000)
    first: int = parameter(128, "global positions (BigBird: 2 blocks)", low=0, high=10_000_000)
    random: int = parameter(192, "random positions (BigBird: 3 blocks)", low=0, high=10_000_000)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It replaces attention with key-value heads."""
        return None if blocks(schedule, AttentionBlock) else "the model has no attention with key-value heads"

    def apply(self, schedule: Schedule) -> Schedule:
        """A query does as much as with a window of all three, but every key stays in memory."""
        seen = self.window + self.first + self.random

        def sparse(core: Any) -> Attention:
            return replace(core, window=seen if core.window is None else minimum(core.window, seen))  # type: ignore[no-any-return]

        return schedule.with_change(on(Attention, sparse), held=False)
