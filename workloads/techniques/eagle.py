"""EAGLE: a layer drafts from features, one pass verifies the tree."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import MlpBlock, MoeBlock
from workloads.model import Model
from workloads.schedule import Pass, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_branches, no_decoding
from workloads.techniques.decoding import by_draft, draft_of, in_rounds, joined, verification, with_draft


@dataclass(frozen=True)
class Eagle(Technique):
    """One decoder layer drafts a tree from the features of the model; one pass over the tree verifies it."""

    name = "eagle"
    aliases = ("feature-drafting",)
    # arXiv:2406.16858, section 5: 60 tokens of a tree 6 levels deep, of which 10 are expanded at once
    variants = {"eagle-2": {"depth": 6, "nodes": 60, "accepted": 4.0}}
    category = "efficient decoding"
    paper = "EAGLE arXiv:2401.15077"
    removes = "decode passes: one reads the weights for several tokens"
    adds = "passes of a one-layer draft with the vocabulary projection; a pass over all nodes of the tree"
    needs = "a trained draft layer; an attention kernel with a tree mask"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how tokens are made"
    refused_by = (no_branches, no_decoding)
    assumed = ("accepted",)

    depth: int = parameter(5, "draft passes, the depth of the tree", low=1, high=32)
    nodes: int = parameter(26, "nodes that a pass verifies", low=2, high=1024)
    accepted: float = parameter(
        3.5, "mean tokens of a pass, at most depth + 1 (measure yours; 1 is no gain)", low=1, high=33
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and keeps at most a token of each level and its own."""
        if self.accepted > self.depth + 1:
            return f"{self.accepted:g} tokens cannot come of a tree {self.depth} levels deep"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """The draft is a layer of the model between its own embedding and vocabulary projection.

        Where the model has experts the draft is dense: as wide as one expert if that is a whole layer, else
        as the active experts of a token together, which are slices of one.
        """
        draft = _one_layer(schedule.main.model)
        level = max(1, self.nodes // self.depth)

        def drafting(plain: Pass, rounds: float) -> list[Pass]:
            return [by_draft(verification(plain, level, rounds * self.depth), draft, joined)]

        return with_draft(in_rounds(schedule, self.nodes, self.accepted, drafting), draft, joined)


def _one_layer(model: Model) -> Model:
    last = model.layers[-1]
    hidden = model.hidden
    dense = replace(
        last, blocks=tuple(_dense(b, hidden) if isinstance(b, MoeBlock) else b for b in last.blocks)
    )
    return draft_of(model, dense)


def _dense(block: MoeBlock, hidden: int) -> MlpBlock:
    sliced = block.width < 2 * hidden  # dense layers are 2.5 times as wide as the stream or more
    width = block.top_k * block.width + (block.shared.width if block.shared else 0) if sliced else block.width
    return MlpBlock(width, block.activation, block.gated, block.bias)
