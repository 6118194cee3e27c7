"""StreamingLLM: the first tokens and a window of the last ones."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import on, within
from workloads.techniques.conditions import no_cache


@dataclass(frozen=True)
class StreamingLlm(Technique):
    """Every position sees a few first tokens (attention sinks) and a window; the cache keeps only those."""

    name = "streaming-llm"
    aliases = ("attention-sinks", "sliding-window-cache")
    category = "sparsification"
    paper = "StreamingLLM arXiv:2309.17453"
    removes = "keys and values beyond the window, from memory and from every step"
    adds = "nothing"
    needs = "an attention kernel with sinks and a window"
    quality = "lossy"
    served = "TensorRT-LLM"
    slot = "which positions are attended to"
    refused_by = (no_cache,)

    sinks: int = parameter(4, "first tokens that stay (the paper: 4)", low=0, high=1024)
    window: int = parameter(1020, "last tokens that stay", low=1, high=10_000_000)

    def apply(self, schedule: Schedule) -> Schedule:
        """A window as wide as sinks and window together does the same work."""
        kept = self.sinks + self.window
        seen = schedule.with_change(on(Attention, lambda core: within(core, kept)))
        return seen.with_main(tokens=min(schedule.main.tokens, kept))
