"""Blockwise parallel decoding: heads for several positions, verified by the next pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import also, vocabulary_projection
from workloads.techniques.conditions import no_decoding
from workloads.techniques.decoding import in_rounds

WIDTH = 4  # hidden units of a head over those of the model


@dataclass(frozen=True)
class Blockwise(Technique):
    """Extra heads propose the next k tokens; the next pass verifies them and proposes again."""

    name = "blockwise-parallel-decoding"
    aliases = ("blockwise",)
    category = "efficient decoding"
    paper = "Stern et al. arXiv:1811.03115"
    removes = "decode passes: one pass verifies a block and proposes the next"
    adds = "a feed-forward head for each further position, run at every pass"
    needs = "a model fine-tuned with the heads"
    quality = "retrained"
    slot = "how tokens are made"
    refused_by = (no_decoding,)
    assumed = ("accepted",)

    k: int = parameter(8, "positions proposed at once (the paper: 2 to 10)", low=1, high=64)
    accepted: float = parameter(4.0, "mean tokens kept of a block, at most k (measure yours)", low=1, high=64)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and keeps no more than it proposes."""
        if self.accepted > self.k:
            return f"{self.accepted:g} tokens cannot be kept of {self.k}"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """Verification and proposal are one pass over k positions."""
        found = in_rounds(schedule, self.k, self.accepted, lambda plain, rounds: [])
        return found.with_change(also(self._heads), "decode", held=self.k > 1) if self.k > 1 else found

    def _heads(self, rows: Sequence[Named], step: Step) -> list[Named]:
        """k - 1 heads from h to 4h and back, each with a residual, behind the last layer."""
        head = vocabulary_projection(rows)
        if head is None:  # a pipeline stage without the vocabulary projection
            return []
        tokens, hidden, wide = step.batch * step.q_len, head.k, WIDTH * head.k
        up = Gemm(tokens, wide, hidden, head.inputs, head.weights, head.outputs, bias=True)
        down = Gemm(tokens, hidden, wide, head.inputs, head.weights, head.outputs, bias=True)
        more = replace(head, m=tokens, tied=True)  # all positions share the vocabulary projection
        return [
            Named("heads.up_proj", up, self.k - 1),
            Named("heads.down_proj", down, self.k - 1),
            Named("heads.lm_head", more, self.k - 1),
        ]
