"""AutoCompressors: summary vectors in place of segments."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Pass, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_prompt
from workloads.techniques.requests import shortened


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
