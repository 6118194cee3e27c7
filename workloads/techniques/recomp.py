"""RECOMP: a summary in place of the documents."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.catalogue import load_model
from workloads.schedule import Schedule, plain
from workloads.sharing import beside
from workloads.techniques.base import Technique, parameter
from workloads.techniques.conditions import no_prompt
from workloads.techniques.requests import shortened


@dataclass(frozen=True)
class Recomp(Technique):
    """A smaller model writes a summary of the retrieved documents, and the model reads the summary."""

    name = "summaries"
    aliases = ("recomp", "abstractive-compression", "summary")
    category = "input compression"
    paper = "RECOMP arXiv:2310.04408"
    removes = "prompt tokens: their prefill, and their keys and values in every later step"
    adds = "the summariser: its prefill over the documents, its decode steps, its weights and cache"
    needs = "a summariser"
    quality = "lossy"
    slot = "what of the prompt is read"
    refused_by = (no_prompt,)

    ratio: float = parameter(
        10.0, "document tokens over summary tokens (abstract: as low as 6 %, which is 17)", low=1, high=1000
    )
    summariser: str = parameter("T5-large", "model that writes (section 3.2: T5-large)")

    def apply(self, schedule: Schedule) -> Schedule:
        """Documents longer than the summariser's context are summarised in pieces."""
        kept = max(1, round(schedule.prompt / self.ratio))
        if kept == schedule.prompt:
            return schedule
        writer = load_model(self.summariser).model
        pieces = -(-(schedule.prompt + kept) // writer.max_position)
        documents, written = -(-schedule.prompt // pieces), max(2, -(-kept // pieces))
        setting, batch = beside(writer, schedule.main.setting), schedule.batch * pieces
        alone = plain(writer, "generate", batch, documents, written, 0, setting)
        writing = (replace(p, phase="prefill", scope="summariser.") for p in alone.passes)
        return shortened(schedule, kept).with_another(writing, *alone.residents)
