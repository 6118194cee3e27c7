"""Speculative decoding with a diffusion draft."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Attention
from workloads.schedule import Pass, Resident, Schedule
from workloads.sharing import beside
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import both_ways, on
from workloads.techniques.decoding import expected_tokens, in_rounds
from workloads.techniques.speculative import Speculative


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

    k: int = parameter(15, "drafted tokens", low=1, high=512)
    steps: int = parameter(2, "denoising passes of a draft", low=1, high=512)
    accept: float = parameter(0.8, "chance that a drafted token is kept", low=0, high=1)
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
