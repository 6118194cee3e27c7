"""Mixture of experts in place of dense feed-forward blocks."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks import MlpBlock, MoeBlock
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import blocks, with_blocks


@dataclass(frozen=True)
class MixtureOfExperts(Technique):
    """Each feed-forward block becomes several experts, of which a router picks a few for each token."""

    name = "mixture-of-experts"
    aliases = ("moe", "upcycling", "grin", "mixtral-moe")
    variants = {
        "switch-transformer": {"top_k": 1},
        "deepseek-moe": {"experts": 64, "top_k": 6},  # arXiv:2401.06066, section 5.1.2: routed ones
    }
    category = "efficient structure"
    paper = "Switch arXiv:2101.03961; Mixtral arXiv:2401.04088; DeepSeekMoE arXiv:2401.06066; GRIN 2409.12136"
    removes = "feed-forward work per token, at equal parameters"
    adds = "a router; the weights of every expert in memory; at a batch, reads of many experts"
    needs = "a model trained with experts"
    quality = "retrained"
    slot = "the kind of feed-forward block"

    experts: int = parameter(8, "experts (Mixtral: 8)", low=1, high=4096)
    top_k: int = parameter(2, "experts of a token (Mixtral: 2; Switch: 1)", low=1, high=4096)
    equal: str = parameter("active", "what stays equal to the dense model", among=("active", "total"))

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be dense feed-forward blocks, and as many experts as are picked."""
        if not blocks(schedule, MlpBlock):
            return "the model has no dense feed-forward block"
        if self.top_k > self.experts:
            return f"{self.top_k} experts cannot be picked of {self.experts}"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Experts of width / top_k keep the active parameters, experts of width / experts the total."""
        parts = self.top_k if self.equal == "active" else self.experts

        def split(b: MlpBlock) -> MoeBlock:
            width = max(1, round(b.width / parts))
            return MoeBlock(self.experts, self.top_k, width, b.activation, b.gated, b.bias)

        return with_blocks(schedule, MlpBlock, split)
