"""Speculative decoding: a small model drafts, the model verifies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from workloads.catalogue import MODELS, load_model
from workloads.phases import parameters
from workloads.schedule import Pass, Resident, Schedule
from workloads.techniques.base import TOKENS, Target, Technique, parameter
from workloads.techniques.changes import NOTHING_DECODED, decodes
from workloads.techniques.decoding import expected_tokens, in_rounds

if TYPE_CHECKING:
    from workloads.model import Model


@dataclass(frozen=True)
class Speculative(Technique):
    """A small model drafts k tokens; the model reads them in one pass and keeps those it would have said."""

    name = "speculative-decoding"
    aliases = ("speculative", "speculative-sampling", "draft-model")
    level = "algorithm"
    category = "efficient decoding"
    paper = "Leviathan et al. arXiv:2211.17192; Chen et al. arXiv:2302.01318"
    removes = "decode passes of the model: its weights are read once for several tokens"
    adds = "k passes of the draft model per verification, its prefill, its weights and its cache"
    needs = "a draft model with the same vocabulary"
    quality = "exact"
    slot = "how tokens are made"
    order = TOKENS

    k: int = parameter(4, "drafted tokens (Chen et al.: 4)", low=1, high=64)
    accept: float = parameter(
        0.75, "chance that a drafted token is kept (Leviathan et al., T5: 0.53 to 0.82)", low=0, high=1
    )
    draft: str = parameter(
        "auto", "the model that drafts; auto: the smallest shipped one with this vocabulary"
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and a model to draft with."""
        if not decodes(schedule):
            return NOTHING_DECODED
        if self.draft == "auto" and smallest_alike(schedule.main.model) is None:
            return "no smaller shipped model has this vocabulary; name one with draft=MODEL"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Verifications of k + 1 positions instead of steps of one; k draft steps before each."""
        draft = self.drafter(schedule.main.model)

        def beside(plain: Pass, times: float) -> Pass:
            return replace(plain, model=draft, scope="draft.", times=times, changes=())

        tokens = expected_tokens(self.accept, self.k)
        found = in_rounds(schedule, self.k + 1, tokens, lambda p, rounds: [beside(p, rounds * self.k)])
        reading = [beside(p, p.times) for p in schedule.passes if p.phase == "prefill" and p.scope == ""]
        main = found.main
        held = Resident(draft, main.setting, main.batch, main.tokens)
        return replace(found, passes=(*reading, *found.passes), residents=(*found.residents, held))

    def drafter(self, model: Model) -> Model:
        """The model that drafts for a model."""
        found = load_model(self.draft).model if self.draft != "auto" else smallest_alike(model)
        assert found is not None  # refused before
        return found


def smallest_alike(model: Model) -> Model | None:
    """The smallest shipped model with this vocabulary, if it is smaller than the model."""
    alike = _smallest(model.vocabulary)
    return alike if alike is not None and parameters(alike) < parameters(model) else None


@cache
def _smallest(vocabulary: int) -> Model | None:
    """The smallest shipped model with a vocabulary; the catalogue is read once."""
    alike = [found for found in (load_model(path).model for path in MODELS) if found.vocabulary == vocabulary]
    return min(alike, key=parameters, default=None)
