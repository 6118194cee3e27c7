"""Gist tokens: a shared prompt as a few soft tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Schedule
from workloads.techniques.base import REQUEST, Target, Technique, parameter
from workloads.techniques.requests import no_prompt, shortened


@dataclass(frozen=True)
class Gist(Technique):
    """A prompt that many requests share is read once and kept as a few trained tokens."""

    name = "gist-tokens"
    aliases = ("soft-prompts", "gisting", "gist", "soft-tokens")
    level = "algorithm"
    category = "input compression"
    paper = "Gist tokens arXiv:2304.08467"
    removes = "prompt tokens: their prefill, and their keys and values in every later step"
    adds = "the compression itself, once per prompt and shared by all its requests"
    needs = "a model fine-tuned to compress"
    quality = "retrained"
    slot = "what of the prompt is read"
    order = REQUEST
    assumed = ("requests",)
    of_requests = True

    ratio: float = parameter(26.0, "prompt tokens over gist tokens (abstract: up to 26)", low=1, high=1000)
    requests: float = parameter(100.0, "requests that share a prompt", low=1, high=1e9)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It acts on the prefill, and through it on what later steps see."""
        return no_prompt(schedule)

    def apply(self, schedule: Schedule) -> Schedule:
        """The gist is read like a prompt; each request carries its share of reading the whole prompt once."""
        kept = max(1, round(schedule.prompt / self.ratio))
        if kept == schedule.prompt:
            return schedule
        reading = [
            replace(p, times=p.times / self.requests, scope="compression.")
            for p in schedule.passes
            if p.phase == "prefill" and p.scope == ""
        ]
        read = shortened(schedule, kept)
        return replace(read, passes=(*reading, *read.passes))
