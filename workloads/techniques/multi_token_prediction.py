"""Multi-token prediction: the model's own further layer drafts a chain, one pass verifies it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from workloads.layer import Layer
from workloads.model import Model
from workloads.schedule import Pass, Schedule
from workloads.step import Setting
from workloads.techniques.base import Technique, parameter
from workloads.techniques.conditions import no_decoding
from workloads.techniques.decoding import (
    by_draft,
    draft_of,
    expected_tokens,
    in_rounds,
    joined,
    verification,
    with_draft,
)

JOINED = partial(joined, bias=False)


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
            each = by_draft(plain, draft, JOINED)
            first = verification(each, self.steps + 1, rounds, scored=1)
            later = replace(each, times=rounds * (self.steps - 1))
            return [first, later] if self.steps > 1 else [first]

        return with_draft(in_rounds(schedule, self.steps + 1, self.tokens, drafting), draft, JOINED)


def _attending(model: Model, setting: Setting) -> Layer:
    """The last layer that keeps keys and values, which drafts of hybrids have (Qwen3-Next); else the last."""
    growing = (x for x in reversed(model.layers) if x.cache_bytes(2, setting) > x.cache_bytes(1, setting))
    return next(growing, model.layers[-1])
