"""Gist tokens: a shared prompt as a few soft tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.conditions import no_prompt
from workloads.techniques.requests import shortened


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
