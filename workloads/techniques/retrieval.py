"""Retrieval in place of a long context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.catalogue import load_model
from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Pass, Resident, Schedule
from workloads.sharing import beside
from workloads.step import Step
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import also, shortened
from workloads.techniques.conditions import no_prompt


@dataclass(frozen=True)
class Retrieval(Technique):
    """Of a long text only the passages that an index finds for the question are read."""

    name = "retrieval"
    aliases = ("rag", "retrieval-augmented-generation", "dense-retrieval")
    category = "input compression"
    paper = "Lewis et al. arXiv:2005.11401"
    removes = "prompt tokens outside the found passages"
    adds = "an encoder pass over the question, and a search that reads every vector of the index"
    needs = "an index of the text"
    quality = "lossy"
    slot = "what of the prompt is read"
    example = "Llama-3.1-8B --hw h100 --prompt 8192"

    passages: int = parameter(10, "passages that are read", low=1, high=10_000)
    words: int = parameter(128, "tokens of a passage (Lewis et al.: 100 words)", low=1, high=100_000)
    question: int = parameter(64, "tokens of the question", low=1, high=100_000)
    vectors: float = parameter(1e6, "passages in the index (Lewis et al.: 21e6, Wikipedia)", low=1, high=1e12)
    width: int = parameter(768, "elements of a vector (DPR: BERT base)", low=1, high=65536)
    encoder: str = parameter(
        "BERT-base-uncased", "model that embeds the question (DPR, arXiv:2004.04906: BERT base)"
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Question and passages must be shorter than the prompt."""
        if (reason := no_prompt(schedule)) is not None:
            return reason
        if self._kept >= schedule.prompt:
            return f"question and passages, {self._kept} tokens, are no shorter than the prompt"
        return None

    @property
    def _kept(self) -> int:
        return self.question + self.passages * self.words

    def apply(self, schedule: Schedule) -> Schedule:
        """Embed the question, search the index, read the passages, which were embedded in advance."""
        encoder = load_model(self.encoder).model
        setting, batch = beside(encoder, schedule.main.setting), schedule.batch
        embedding = Pass(
            "prefill", encoder, setting, batch, self.question, self.question, self.question, scored=0,
            scope="retrieval.", changes=(also(self._search),),
        )  # fmt: skip
        held = Resident(encoder, setting, batch, 0, changes=(also(self._search),))
        return shortened(schedule, self._kept).with_another([embedding], held)

    def _search(self, rows: Sequence[Named], step: Step) -> list[Named]:
        """An exact search: a product of the question with every vector, kept in fp32."""
        return [Named("search", Gemm(step.batch, int(self.vectors), self.width, "fp32", "fp32", "fp32"), 1)]
