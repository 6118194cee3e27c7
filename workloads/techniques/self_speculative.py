"""Self-speculative decoding: the model drafts with fewer layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Pass, Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import share_of_layers
from workloads.techniques.conditions import no_decoding
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
