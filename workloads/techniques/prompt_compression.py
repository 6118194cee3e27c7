"""Prompt compression: a small model drops the tokens that say least."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.catalogue import load_model
from workloads.schedule import Pass, Resident, Schedule
from workloads.sharing import beside
from workloads.techniques.base import Technique, parameter
from workloads.techniques.conditions import no_prompt
from workloads.techniques.requests import shortened


@dataclass(frozen=True)
class PromptCompression(Technique):
    """A small model scores the tokens of the prompt; the model reads only the most informative ones."""

    name = "prompt-compression"
    aliases = ("llmlingua", "selective-context")
    category = "input compression"
    paper = "LLMLingua arXiv:2310.05736; Selective Context arXiv:2304.12102"
    removes = "prompt tokens: their prefill, and their keys and values in every later step"
    adds = "one pass of the scoring model over the whole prompt, and its weights"
    needs = "a scoring model"
    quality = "lossy"
    slot = "what of the prompt is read"
    refused_by = (no_prompt,)

    ratio: float = parameter(4.0, "prompt tokens over kept ones (LLMLingua: up to 20)", low=1, high=100)
    scorer: str = parameter("GPT-2", "model that scores tokens (LLMLingua: GPT-2 or Alpaca-7B)")

    def apply(self, schedule: Schedule) -> Schedule:
        """Score the prompt in pieces of the scorer's context, then read the kept tokens."""
        kept = max(1, round(schedule.prompt / self.ratio))
        if kept == schedule.prompt:  # a ratio of 1 keeps every token and needs no scores
            return schedule
        scorer = load_model(self.scorer).model
        piece = min(schedule.prompt, scorer.max_position)
        setting, batch = beside(scorer, schedule.main.setting), schedule.batch
        pieces = schedule.prompt / piece
        scoring = Pass("prefill", scorer, setting, batch, piece, piece, piece, pieces, piece, "scorer.")
        return shortened(schedule, kept).with_another([scoring], Resident(scorer, setting, batch, 0))
