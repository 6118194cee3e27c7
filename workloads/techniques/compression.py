"""Something shorter is read in place of the prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.catalogue import load_model
from workloads.schedule import Pass, Resident, Schedule, plain
from workloads.sharing import beside
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import shortened
from workloads.techniques.conditions import no_prompt


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


@dataclass(frozen=True)
class Gist(Technique):
    """A prompt that many requests share is read once and kept as a few trained tokens."""

    name = "gist-tokens"
    aliases = ("soft-prompts", "gisting", "gist", "soft-tokens")
    category = "input compression"
    paper = "Gist tokens arXiv:2304.08467"
    removes = "prompt tokens: their prefill, and their keys and values in every later step"
    adds = "the compression itself, once per prompt and shared by all its requests"
    needs = "a model fine-tuned to compress"
    quality = "retrained"
    slot = "what of the prompt is read"
    refused_by = (no_prompt,)
    assumed = ("requests",)
    of_requests = True

    ratio: float = parameter(26.0, "prompt tokens over gist tokens (abstract: up to 26)", low=1, high=1000)
    requests: float = parameter(100.0, "requests that share a prompt", low=1, high=1e9)

    def apply(self, schedule: Schedule) -> Schedule:
        """The gist is read like a prompt; each request carries its share of reading the whole prompt once."""
        kept = max(1, round(schedule.prompt / self.ratio))
        if kept == schedule.prompt:
            return schedule
        reading = [
            replace(p, times=p.times / self.requests, scope="compression.")
            for p in schedule.of_main("prefill")
        ]
        return shortened(schedule, kept).with_another(reading)


@dataclass(frozen=True)
class AutoCompressor(Technique):
    """The model reads the prompt in segments and keeps a few summary vectors of each."""

    name = "autocompressor"
    aliases = ("summary-vectors",)
    category = "input compression"
    paper = "AutoCompressors arXiv:2305.14788"
    removes = "quadratic attention over the prompt; its keys and values in every later step"
    adds = "summary positions in every segment, which all later segments read again"
    needs = "a model fine-tuned to summarise"
    quality = "retrained"
    slot = "what of the prompt is read"
    example = "Llama-3.1-8B --hw h100 --prompt 8192"

    segment: int = parameter(2048, "tokens of a segment", low=1, high=1_000_000)
    summary: int = parameter(50, "summary vectors of a segment (the paper: 50)", low=1, high=10_000)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Segments must be shorter than the prompt and longer than their summary."""
        if (reason := no_prompt(schedule)) is not None:
            return reason
        if schedule.prompt <= self.segment:
            return f"the prompt of {schedule.prompt} tokens is one segment of {self.segment}"
        if self.summary >= self.segment:
            return f"{self.summary} summary vectors are no fewer than the {self.segment} tokens of a segment"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Segment i reads the i summaries before it and its tokens, and makes its summary.

        Summaries are last-layer outputs used as inputs of later segments (section 3.1), so that every segment
        recomputes their keys and values.
        """
        segments = -(-schedule.prompt // self.segment)
        last = schedule.prompt - (segments - 1) * self.segment
        found = shortened(schedule, (segments - 1) * self.summary + last)
        passes: list[Pass] = []
        for p in found.passes:
            if p.phase == "prefill" and p.scope == "":
                own = self.segment + self.summary
                sizes = [own + i * self.summary for i in range(segments - 1)]
                passes += [replace(p, q_len=size, first=size, last=size, scored=0) for size in sizes]
            passes.append(p)
        return replace(found, passes=tuple(passes))
