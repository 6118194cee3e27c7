"""The model drafts for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Pass, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import share_of_layers
from workloads.techniques.conditions import no_branches, no_decoding
from workloads.techniques.decoding import expected_tokens, in_rounds


@dataclass(frozen=True)
class SelfSpeculative(Technique):
    """The model drafts k tokens with some of its layers left out, and verifies them with all."""

    name = "self-speculative-decoding"
    aliases = ("self-speculation", "self-speculative", "draft-and-verify", "layer-skip-drafting", "layerskip")
    category = "efficient decoding"
    paper = "Draft & Verify arXiv:2309.08168; LayerSkip arXiv:2404.16710"
    removes = "decode passes of the whole model"
    adds = "k passes of the kept layers per verification"
    needs = "a choice of layers that can be skipped"
    quality = "exact"
    slot = "how tokens are made"
    refused_by = (no_decoding,)
    assumed = ("accept",)
    tried = ({"k": 1}, {"k": 2}, {"k": 8})

    k: int = parameter(4, "drafted tokens", low=1, high=64)
    layers: float = parameter(0.5, "share of the layers that draft", low=0, high=1)
    accept: float = parameter(0.75, "chance that a drafted token is kept", low=0, high=1)

    def apply(self, schedule: Schedule) -> Schedule:
        """Drafts use the model's own weights and cache; skipped layers write no keys until they verify."""
        tokens = expected_tokens(self.accept, self.k)

        def drafting(plain: Pass, rounds: float) -> list[Pass]:
            change = share_of_layers(self.layers)
            return [replace(plain, times=rounds * self.k, scope="draft.", changes=(*plain.changes, change))]

        return in_rounds(schedule, self.k + 1, tokens, drafting)


@dataclass(frozen=True)
class Lookahead(Technique):
    """Jacobi iterations over a window collect n-grams, which the same pass verifies."""

    name = "lookahead-decoding"
    aliases = ("lookahead", "jacobi-decoding", "jacobi")
    category = "efficient decoding"
    paper = "Lookahead decoding arXiv:2402.02057; Jacobi decoding arXiv:2305.10427"
    removes = "decode passes: one reads the weights for several tokens"
    adds = "(window + guesses) x (n - 1) positions in every pass"
    needs = "an attention kernel with the mask of the window"
    quality = "exact"
    served = "TensorRT-LLM"
    slot = "how tokens are made"
    refused_by = (no_branches, no_decoding)
    assumed = ("accepted",)

    window: int = parameter(15, "positions of the look-ahead window W", low=1, high=512)
    n: int = parameter(5, "length of the n-grams N", low=2, high=32)
    guesses: int = parameter(15, "n-grams G verified at once", low=0, high=512)
    accepted: float = parameter(1.8, "mean tokens of a pass (measure yours; 1 is no gain)", low=1, high=32)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It needs decode steps, and keeps at most an n-gram."""
        if self.accepted > self.n:
            return f"{self.accepted:g} tokens cannot come of n-grams of {self.n}"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """One pass holds the current token, the window's trajectories and the n-grams to verify.

        Of the trajectories the last tokens alone are new: the others are not projected to the vocabulary.
        """
        positions = 1 + (self.window + self.guesses) * (self.n - 1)
        scored = 1 + self.window + self.guesses * (self.n - 1)
        return in_rounds(schedule, positions, self.accepted, lambda plain, rounds: [], scored)
