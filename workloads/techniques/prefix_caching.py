"""Prefix caching: keys and values of a shared beginning are kept between requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Pass, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_cache, no_prompt


@dataclass(frozen=True)
class PrefixCaching(Technique):
    """A share of the prompt was read for an earlier request; its keys and values are still there."""

    name = "prefix-caching"
    aliases = ("radix-attention", "automatic-prefix-caching", "prompt-caching", "prefix-reuse")
    category = "memory management"
    paper = "SGLang RadixAttention arXiv:2312.07104; vLLM PagedAttention arXiv:2309.06180, section 4.4"
    removes = "the prefill of the cached share of the prompt"
    adds = "memory for prefixes kept between requests"
    needs = "requests that begin alike"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "reuse of prefixes"
    assumed = ("hit",)
    of_requests = True

    hit: float = parameter(0.5, "share of prompt tokens found in the cache (measure yours)", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Only a prefill can be skipped, and only values that depend on the prefix alone can be reused."""
        encoder = "what an encoder makes of a prefix depends on all that follows"
        other = encoder if schedule.main.model.has_memory else None
        return no_prompt(schedule) or no_cache(schedule) or other

    def apply(self, schedule: Schedule) -> Schedule:
        """New positions are fewer and see as much as before; the last one is always computed."""

        def rest(p: Pass) -> Pass:
            return replace(p, q_len=max(1, round(p.q_len * (1 - self.hit))))

        return schedule.each("prefill", rest)
