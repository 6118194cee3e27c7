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
from workloads.techniques.conditions import no_branches, no_decoding, no_drafts
from workloads.techniques.decoding import expected_tokens, in_rounds, verification


@dataclass(frozen=True)
class Eagle(Technique):
    """One decoder layer drafts from the features of the model; one pass verifies a chain or tree."""

    name = "eagle"
    aliases = ("feature-drafting",)
    variants = {
        "eagle-1": {"depth": 5, "nodes": 26, "accepted": 3.5},  # the tree of arXiv:2401.15077
        # arXiv:2406.16858, section 5: 60 tokens of a tree 6 levels deep, of which 10 are expanded at once
        "eagle-2": {"depth": 6, "nodes": 60, "accepted": 4.0},
    }
    # a shorter chain, of the same measurement as the default, and the first paper's tree
    tried = ({"depth": 2, "nodes": 3, "accepted": 2.1}, variants["eagle-1"])
    category = "efficient decoding"
    paper = "EAGLE arXiv:2401.15077"
    removes = "decode passes: one reads the weights for several tokens"
    adds = "passes of a one-layer draft with the vocabulary projection; a pass over all drafts"
    needs = "a trained draft layer; for a tree, an attention kernel with its mask"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how tokens are made"
    refused_by = (no_decoding,)
    assumed = ("accepted",)

    depth: int = parameter(
        3, "draft passes, the depth of a tree (vLLM's example, SGLang for DeepSeek-V3: 3)", low=1, high=32
    )
    nodes: int = parameter(
        4,
        "positions that a pass verifies: depth + 1 of a chain, as vLLM drafts, more of a tree",
        low=2,
        high=1024,
    )
    accepted: float = parameter(
        2.3,
        "mean tokens of a pass, at most depth + 1 (vLLM issue 20780, Llama 3.1 8B: 2.29; 1 is no gain)",
        low=1,
        high=33,
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and keeps at most a token of each level and its own."""
        if self.accepted > self.depth + 1:
            return f"{self.accepted:g} tokens cannot come of a tree {self.depth} levels deep"
        branches = no_branches(schedule) if self.nodes > self.depth + 1 else None
        return super().refuse(schedule, target) or branches

    def apply(self, schedule: Schedule) -> Schedule:
        """The draft is a layer of the model between its own embedding and vocabulary projection.

        Where the model has experts the draft is dense: as wide as one expert if that is a whole layer, else
        as the active experts of a token together, which are slices of one.
        """
        draft = _one_layer(schedule.main.model, schedule.main.setting)
        level = max(1, self.nodes // self.depth)

        def drafting(plain: Pass, rounds: float) -> list[Pass]:
            return [by_draft(verification(plain, level, rounds * self.depth), draft, joined)]

        return with_draft(in_rounds(schedule, self.nodes, self.accepted, drafting), draft, joined)


def _one_layer(model: Model, setting: Setting) -> Model:
    def dense(layer: Layer) -> Layer:
        blocks = (_dense(b, model.hidden) if isinstance(b, MoeBlock) else b for b in layer.blocks)
        return replace(layer, blocks=tuple(blocks))

    return draft_of(model, *map(dense, _whole(model, setting)))


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
    needs = "a checkpoint with such a layer (DeepSeek-V3, GLM-4.5, Qwen3-Next, Qwen3.5 ...)"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how tokens are made"
    refused_by = (no_decoding, no_drafts)
    assumed = ("accept",)
    example = "GLM-4.5-Air --hw h200 --tp 2"
    # SGLang drafts 3 with DeepSeek-V3's, which yields 3.2 tokens of up to 8 (nebius/MTP-DeepSeek-V3-0324), as
    # with this chance
    tried = ({"steps": 3, "accept": 0.7},)

    steps: int = parameter(1, "drafted tokens (DeepSeek-V3: 1)", low=0, high=32)
    accept: float = parameter(
        0.85, "chance that a drafted token is kept (DeepSeek-V3, second token: 0.85 to 0.90)", low=0, high=1
    )

    @property
    def tokens(self) -> float:
        """Tokens that one verification yields."""
        return expected_tokens(self.accept, self.steps)

    def apply(self, schedule: Schedule) -> Schedule:
        """Rounds of drafting and verifying; each layer reads the prompt, too, for its own keys and values.

        Of several published layers each drafts one token, in turn; all are in memory.

        Of a round the first draft goes over what was just verified, whose features were not known before:
        steps + 1 positions of which the kept ones count. Later drafts go over one position each.
        """
        if not self.steps:
            return schedule
        model = schedule.main.model
        draft = draft_of(model, *_whole(model, schedule.main.setting))

        def drafting(plain: Pass, rounds: float) -> list[Pass]:
            each = by_draft(plain, draft, joined_plainly)
            first = verification(each, self.steps + 1, rounds, scored=1)
            later = replace(each, times=rounds * (self.steps - 1))
            return [first, later] if self.steps > 1 else [first]

        rounds = in_rounds(schedule, self.steps + 1, self.tokens, drafting)
        return with_draft(rounds, draft, joined_plainly, model.stack.drafts)


def _whole(model: Model, setting: Setting) -> tuple[Layer, ...]:
    """The last layer that keeps keys and values, which drafts of hybrids have (Qwen3-Next); else the last.

    Where layers are one block each, as Nemotron-H's, a feed-forward one follows it (Nemotron 3 Super,
    `mtp_hybrid_override_pattern`: "*E").
    """
    growing = (x for x in reversed(model.layers) if x.cache_bytes(2, setting) > x.cache_bytes(1, setting))
    attending = next(growing, model.layers[-1])
    feeding = (x for x in reversed(model.layers) if isinstance(x.blocks[0], MlpBlock | MoeBlock))
    return (attending, *([] if len(attending.blocks) > 1 else list(feeding)[:1]))


def draft_of(model: Model, *layers: Layer) -> Model:
    """A draft of few layers between the model's own embedding and vocabulary projection."""
    return replace(model, name=f"a layer of {model.name}", stack=replace(model.stack, layers=layers))


def by_draft(plain: Pass, draft: Model, joining: Change) -> Pass:
    """A pass of a layer that drafts, behind the projection that joins its inputs."""
    return replace(plain, model=draft, scope="draft.", changes=(joining,))


def with_draft(found: Schedule, draft: Model, joining: Change, copies: int = 1) -> Schedule:
    """The schedule with `copies` of a draft in memory, which read the prompt for their keys and values."""
    main = found.main
    every = replace(draft, stack=replace(draft.stack, layers=draft.layers * copies))
    changes = (joining, partial(own_weights, copies=copies))
    held = Resident(every, main.setting, main.batch, main.tokens, changes=changes)
    reading = (by_draft(p, draft, joining) for p in found.of_main("prefill"))
    return found.with_another((replace(p, times=p.times * copies) for p in reading), held)


def joined(rows: Sequence[Named], step: Step, bias: bool = True) -> list[Named]:
    """A projection from 2h to h of a token's embedding concatenated with the previous feature.

    As wide as the vocabulary: a plain nn.Linear beside quantised layers (`eh_proj` of deepseek_nextn.py and
    `fc` of qwen3_5_mtp.py in SGLang).
    """
    head = vocabulary_projection(rows)
    assert head is not None  # every model that decodes has one
    joining = Gemm(step.tokens, head.k, 2 * head.k, head.inputs, head.weights, head.outputs, bias=bias)
    return [Named("join_proj", joining, 1), *rows]


joined_plainly = partial(joined, bias=False)  # as in layers that were trained with the model


def own_weights(rows: Sequence[Named], step: Step, copies: int = 1) -> list[Named]:
    """The embedding and the vocabulary projection are the model's: drafts store layers, and what joins."""
    joining = [replace(row, count=copies) for row in rows if row.name == "join_proj"]
    return [*joining, *(row for row in rows if IN_LAYERS in row.name)]
