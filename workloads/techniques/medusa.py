"""Medusa: heads propose a tree, one pass verifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import also, vocabulary_projection
from workloads.techniques.conditions import no_branches, no_decoding
from workloads.techniques.decoding import in_rounds


@dataclass(frozen=True)
class Medusa(Technique):
    """Extra heads propose a tree of continuations; one pass over the tree verifies all of them."""

    name = "medusa"
    aliases = ("medusa-heads",)
    category = "efficient decoding"
    paper = "Medusa arXiv:2401.10774"
    removes = "decode passes: one reads the weights for several tokens"
    adds = "a residual layer and a vocabulary projection per head; a pass over all nodes of the tree"
    needs = "trained heads; an attention kernel with a tree mask"
    quality = "lossy"
    served = "vLLM, TensorRT-LLM"
    slot = "how tokens are made"
    refused_by = (no_branches, no_decoding)
    assumed = ("accepted",)

    heads: int = parameter(5, "heads (the paper finds five sufficient)", low=1, high=16)
    nodes: int = parameter(64, "nodes of the tree that a pass verifies", low=2, high=1024)
    accepted: float = parameter(
        3.0, "mean tokens of a pass, at most heads + 1 (measure yours; 1 is no gain)", low=1, high=17
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and keeps at most a token of each head and its own."""
        if self.accepted > self.heads + 1:
            return f"{self.accepted:g} tokens cannot come of {self.heads} heads and one step"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """The heads run on the last kept position of each sequence, in the pass that verifies."""
        found = in_rounds(schedule, self.nodes, self.accepted, lambda plain, rounds: [])
        return found.with_change(also(self._heads), "decode", held=True)

    def _heads(self, rows: Sequence[Named], step: Step) -> list[Named]:
        """Per head: a residual layer h x h and a vocabulary projection of its own."""
        head = vocabulary_projection(rows)
        if head is None:  # a pipeline stage without the vocabulary projection
            return []
        layer = Gemm(step.batch, head.k, head.k, head.inputs, head.weights, head.outputs, bias=True)
        projection = replace(head, m=step.batch, tied=False)
        return [Named("heads.layer", layer, self.heads), Named("heads.lm_head", projection, self.heads)]
