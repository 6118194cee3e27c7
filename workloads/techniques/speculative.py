"""A draft model proposes tokens, which the model verifies in one pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile

from workloads.catalogue import MODELS, load_model
from workloads.model import Model
from workloads.operators import Attention
from workloads.phases import parameters
from workloads.schedule import Pass, Resident, Schedule
from workloads.sharing import beside
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import both_ways, on
from workloads.techniques.conditions import no_decoding
from workloads.techniques.decoding import expected_tokens, in_rounds


@dataclass(frozen=True)
class Speculative(Technique):
    """A small model drafts k tokens; the model verifies them in one pass and keeps the accepted ones."""

    name = "speculative-decoding"
    aliases = ("speculative", "speculative-sampling", "draft-model", "specdec")
    category = "efficient decoding"
    paper = "Leviathan et al. arXiv:2211.17192; Chen et al. arXiv:2302.01318"
    removes = "decode passes of the model: its weights are read once for several tokens"
    adds = "k passes of the draft model per verification, its prefill, its weights and its cache"
    needs = "a draft model with the same vocabulary"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how tokens are made"
    assumed = ("accept",)
    tried = ({"k": 1}, {"k": 2}, {"k": 8})

    k: int = parameter(4, "drafted tokens (Chen et al.: 4)", low=1, high=64)
    accept: float = parameter(
        0.75, "chance that a drafted token is kept (Leviathan et al., T5: 0.53 to 0.82)", low=0, high=1
    )
    draft: str = parameter(
        "auto", "the model that drafts; auto: the smallest shipped one with this vocabulary"
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and a model to draft with."""
        if (reason := no_decoding(schedule)) is not None:
            return reason
        if self.draft == "auto" and smallest_alike(schedule.main.model) is None:
            return "no smaller shipped model has this vocabulary; name one with draft=MODEL"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Verifications of k + 1 positions instead of steps of one; k draft steps before each."""
        draft = self.drafter(schedule.main.model)
        setting = beside(draft, schedule.main.setting)

        def drafted(plain: Pass, times: float) -> Pass:
            return replace(plain, model=draft, setting=setting, scope="draft.", times=times, changes=())

        tokens = expected_tokens(self.accept, self.k)
        found = in_rounds(schedule, self.k + 1, tokens, lambda p, rounds: [drafted(p, rounds * self.k)])
        reading = [drafted(p, p.times) for p in schedule.of_main("prefill")]
        main = found.main
        held = Resident(draft, setting, main.batch, main.tokens)
        return found.with_another(reading, held)

    def drafter(self, model: Model) -> Model:
        """The model that drafts for a model."""
        found = load_model(self.draft).model if self.draft != "auto" else smallest_alike(model)
        assert found is not None  # refused before
        return found


def smallest_alike(model: Model, families: frozenset[str] | None = None) -> Model | None:
    """The smallest shipped model with this vocabulary, if it is less than half as large as the model.

    With `families`, only models of these count. Vocabularies are taken to be the same where their sizes are,
    and the families are of one maker.
    """
    alike = _smallest(model.vocabulary, _kin(model), families)
    return alike if alike is not None and 2 * parameters(alike) < parameters(model) else None


@cache
def _smallest(vocabulary: int, kin: frozenset[str], families: frozenset[str] | None) -> Model | None:
    """The smallest shipped model with a vocabulary among families; the catalogue is read once."""
    shipped = (load_model(path).model for path in MODELS)
    alike = [
        found
        for found in shipped
        if found.vocabulary == vocabulary
        and _kin(found) == kin
        and (families is None or found.family in families)
    ]
    return min(alike, key=parameters, default=None)


# Families of other names that share a vocabulary; 32,000 tokens of Llama 2 and of Mistral are others.
RELATED = tuple(
    map(
        frozenset,
        (("llama", "mobilellm", "nemotron"), ("mistral", "mixtral"), ("gpt", "mpt"), ("phi", "phimoe")),
    )
)


def _kin(model: Model) -> frozenset[str]:
    """Families that may share the vocabulary of a model: `qwen` of `qwen3_moe`, and those related."""
    stem = "".join(takewhile(str.isalpha, model.family.lower()))
    return next((related for related in RELATED if stem in related), frozenset((stem,)))


@dataclass(frozen=True)
class DiffusionDrafting(Technique):
    """A small diffusion model drafts all tokens of a window at once, and the model verifies them."""

    name = "speculative-diffusion"
    aliases = ("specdiff", "speculative-diffusion-drafting", "diffusion-drafting")
    category = "efficient decoding"
    paper = "Speculative Diffusion Decoding arXiv:2408.05636"
    removes = "decode passes of the model; draft steps one after the other"
    adds = "a few denoising passes of the draft over the context and the window"
    needs = "a diffusion draft model with the same vocabulary"
    quality = "exact"
    slot = "how tokens are made"
    assumed = ("accept",)
    guessed = ("accept",)
    tried = ({"k": 3}, {"k": 7})

    k: int = parameter(15, "drafted tokens", low=1, high=512)
    steps: int = parameter(2, "denoising passes of a draft", low=1, high=512)
    accept: float = parameter(0.8, "chance that a drafted token is kept (a guess)", low=0, high=1)
    draft: str = parameter(
        "auto", "model of the draft's shape; auto: the smallest shipped one with this vocabulary"
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and a shape to draft with."""
        return Speculative(self.k, self.accept, self.draft).refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """A draft pass computes context and window, as a diffusion model has no cache."""
        draft = Speculative(draft=self.draft).drafter(schedule.main.model)
        setting = beside(draft, schedule.main.setting)

        def drafting(plain: Pass, rounds: float) -> list[Pass]:
            middle = (plain.first + plain.last) // 2 + self.k
            whole = replace(plain, q_len=middle, first=middle, last=middle, times=rounds * self.steps)
            both = on(Attention, both_ways)
            return [
                replace(whole, model=draft, setting=setting, scope="draft.", scored=self.k, changes=(both,))
            ]

        found = in_rounds(schedule, self.k + 1, expected_tokens(self.accept, self.k), drafting)
        return found.with_another((), Resident(draft, setting, found.main.batch, 0))
