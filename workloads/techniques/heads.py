"""Further heads behind the last layer propose tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.step import Step
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import IN_LAYERS, KEYS, also, vocabulary_projection
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


OTHER_STACKS = ("encoder.", "vision.")  # which yield no tokens


@dataclass(frozen=True)
class NextK(Technique):
    """The model yields k tokens per pass through k heads on a shared trunk, without verification."""

    name = "next-k-tokens"
    aliases = ("multi-token-heads",)
    category = "alternative paradigms"
    paper = "Gloeckle et al. arXiv:2404.19737"
    removes = "decode passes: one for every k tokens"
    adds = "a head of one layer per further token; the vocabulary projection for each"
    needs = "a model trained to predict several tokens"
    quality = "retrained"
    slot = "how tokens are made"
    refused_by = (no_decoding,)

    k: int = parameter(4, "tokens per pass (the paper: 4)", low=1, high=32)

    def apply(self, schedule: Schedule) -> Schedule:
        """A pass reads the last k tokens, and each head adds a layer, its cache and a projection.

        Heads read the prompt, too: their layers attend to it.
        """
        if self.k == 1:
            return schedule
        found = in_rounds(schedule, self.k, self.k, lambda plain, rounds: [])
        found = found.with_change(also(self._heads))
        more = (self.k - 1) / len(schedule.main.model.layers)
        return found.with_main(cache_factor=schedule.main.cache_factor * (1 + more))

    def _heads(self, rows: Sequence[Named], step: Step) -> list[Named]:
        """k - 1 further layers; the head of the first token is the model's last layer."""
        inside = [row for row in rows if IN_LAYERS in row.name and not row.name.startswith(OTHER_STACKS)]
        # Of layers that a token skips keys and values are made all the same; a head is a layer for itself.
        layers = max((row.count for row in inside if not row.name.endswith(KEYS)), default=1)
        shares = ((row, min(row.count, layers) / layers) for row in inside)
        return [
            replace(row, name=f"heads.{row.name}", count=(self.k - 1) * share, repeated=0)
            for row, share in shares
        ]
