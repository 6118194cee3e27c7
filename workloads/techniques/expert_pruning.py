"""Pruning of experts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import MoeBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_blocks
from workloads.techniques.conditions import no_experts


@dataclass(frozen=True)
class ExpertPruning(Technique):
    """Experts that are chosen least are removed for good."""

    name = "expert-pruning"
    aliases = ("moe-pruning", "experts-pruning")
    category = "sparsification"
    paper = "Lu et al. arXiv:2402.14800"
    removes = "experts: their weights in memory, and reads of them at a batch"
    adds = "nothing"
    needs = "a count of how often each expert is chosen"
    quality = "lossy"
    slot = "how many experts there are"
    example = "Mixtral-8x7B --hw h200"
    refused_by = (no_experts,)

    kept: float = parameter(
        0.75, "share of experts that stay (Lu et al.: 6 or 4 of Mixtral's 8)", low=0.001, high=1
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """A token still selects as many experts, if as many remain."""

        def fewer(b: MoeBlock) -> MoeBlock:
            experts = max(1, round(b.experts * self.kept))
            return replace(b, experts=experts, top_k=min(b.top_k, experts))

        return with_blocks(schedule, MoeBlock, fewer)
