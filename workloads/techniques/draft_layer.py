"""A further layer drafts between the embedding and the vocabulary projection of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from workloads.blocks import MlpBlock, MoeBlock
from workloads.layer import Layer
from workloads.model import Model
from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Change, Pass, Resident, Schedule
from workloads.step import Setting, Step
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import IN_LAYERS, vocabulary_projection
from workloads.techniques.conditions import no_branches, no_decoding
from workloads.techniques.decoding import expected_tokens, in_rounds, verification


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


@dataclass(frozen=True)
class MultiTokenPrediction(Technique):
    """A further layer, trained with the model, drafts tokens one after another; one pass verifies them."""

    name = "multi-token-prediction"
    aliases = ("mtp", "nextn")
    category = "efficient decoding"
    paper = "DeepSeek-V3 arXiv:2412.19437, sections 2.2 and 5.4.3"
    removes = "decode passes: one reads the weights for several tokens"
    adds = "passes of one layer, experts and all, with the vocabulary projection; drafted positions to verify"
    needs = "a model trained with such a layer (DeepSeek-V3, GLM-4.5, Qwen3-Next, Qwen3.5 ...)"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how tokens are made"
    refused_by = (no_decoding,)
    assumed = ("accept",)

    steps: int = parameter(1, "drafted tokens (DeepSeek-V3: 1)", low=0, high=32)
    accept: float = parameter(
        0.85, "chance that a drafted token is kept (DeepSeek-V3, second token: 0.85 to 0.90)", low=0, high=1
    )

    @property
    def tokens(self) -> float:
        """Tokens that one verification yields."""
        return expected_tokens(self.accept, self.steps)

    def apply(self, schedule: Schedule) -> Schedule:
        """Rounds of drafting and verifying; the layer reads the prompt, too, for its own keys and values.

        Of a round the first draft goes over what was just verified, whose features were not known before:
        steps + 1 positions of which the kept ones count. Later drafts go over one position each.
        """
        if not self.steps:
            return schedule
        draft = draft_of(schedule.main.model, _attending(schedule.main.model, schedule.main.setting))

        def drafting(plain: Pass, rounds: float) -> list[Pass]:
            each = by_draft(plain, draft, joined_plainly)
            first = verification(each, self.steps + 1, rounds, scored=1)
            later = replace(each, times=rounds * (self.steps - 1))
            return [first, later] if self.steps > 1 else [first]

        return with_draft(in_rounds(schedule, self.steps + 1, self.tokens, drafting), draft, joined_plainly)


def _attending(model: Model, setting: Setting) -> Layer:
    """The last layer that keeps keys and values, which drafts of hybrids have (Qwen3-Next); else the last."""
    growing = (x for x in reversed(model.layers) if x.cache_bytes(2, setting) > x.cache_bytes(1, setting))
    return next(growing, model.layers[-1])


def draft_of(model: Model, layer: Layer) -> Model:
    """A draft of one layer between the model's own embedding and vocabulary projection."""
    return replace(model, name=f"a layer of {model.name}", stack=replace(model.stack, layers=(layer,)))


def by_draft(plain: Pass, draft: Model, joining: Change) -> Pass:
    """A pass of a layer that drafts, behind the projection that joins its inputs."""
    return replace(plain, model=draft, scope="draft.", changes=(joining,))


def with_draft(found: Schedule, draft: Model, joining: Change) -> Schedule:
    """The schedule with a drafting layer in memory, which reads the prompt for its own keys and values."""
    main = found.main
    held = Resident(draft, main.setting, main.batch, main.tokens, changes=(joining, own_weights))
    return found.with_another((by_draft(p, draft, joining) for p in found.of_main("prefill")), held)


def joined(rows: Sequence[Named], step: Step, bias: bool = True) -> list[Named]:
    """A projection from 2h to h of a token's embedding concatenated with the previous feature."""
    head = vocabulary_projection(rows)
    assert head is not None  # every model that decodes has one
    joining = Gemm(step.tokens, head.k, 2 * head.k, head.inputs, head.weights, head.outputs, bias=bias)
    return [Named("join_proj", joining, 1), *rows]


joined_plainly = partial(joined, bias=False)  # as in layers that were trained with the model


def own_weights(rows: Sequence[Named], step: Step) -> list[Named]:
    """The embedding and the vocabulary projection are the model's: the draft stores its layer only."""
    return [row for row in rows if IN_LAYERS in row.name or row.name == "join_proj"]
