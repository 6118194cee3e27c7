"""Prompt compression: a small model drops the tokens that say least."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.catalogue import load_model
from workloads.schedule import Pass, Resident, Schedule
from workloads.techniques.base import REQUEST, Target, Technique, parameter


@dataclass(frozen=True)
class PromptCompression(Technique):
    """A small model scores the tokens of the prompt; the model reads only the most informative ones."""

    name = "prompt-compression"
    aliases = ("llmlingua", "selective-context")
    level = "algorithm"
    category = "input compression"
    paper = "LLMLingua arXiv:2310.05736; Selective Context arXiv:2304.12102"
    removes = "prompt tokens: their prefill, and their keys and values in every later step"
    adds = "one pass of the scoring model over the whole prompt, and its weights"
    needs = "a scoring model"
    quality = "lossy"
    slot = "what of the prompt is read"
    order = REQUEST

    ratio: float = parameter(
        4.0, "prompt tokens over kept ones (LLMLingua, table 1: 2 to 20)", low=1, high=100
    )
    scorer: str = parameter("GPT-2", "model that scores tokens (LLMLingua, section 4.3: GPT-2 or Alpaca-7B)")

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It acts on the prefill, and through it on what later steps see."""
        if not any(p.phase == "prefill" for p in schedule.passes):
            return "no prompt is read in this phase; ask for prefill or generate"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Score the prompt in pieces that the scorer has positions for, then read what is kept."""
        kept = max(1, round(schedule.prompt / self.ratio))
        dropped = schedule.prompt - kept
        if not dropped:  # a ratio of 1 keeps every token and needs no scores
            return schedule
        scorer = load_model(self.scorer).model
        piece = min(schedule.prompt, scorer.max_position)
        setting, batch = schedule.main.setting, schedule.batch
        pieces = schedule.prompt / piece
        scoring = Pass("prefill", scorer, setting, batch, piece, piece, piece, pieces, piece, "scorer.")
        shorter = [
            replace(p, q_len=p.q_len - dropped, first=p.first - dropped, last=p.last - dropped)
            if p.phase == "prefill"
            else replace(p, first=p.first - dropped, last=p.last - dropped)
            for p in schedule.passes
        ]
        beside = Resident(scorer, setting, batch, 0)
        held = replace(
            schedule, passes=(scoring, *shorter), residents=(*schedule.residents, beside), prompt=kept
        )
        return held.with_main(tokens=schedule.main.tokens - dropped)
