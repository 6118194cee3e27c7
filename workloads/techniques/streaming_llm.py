"""StreamingLLM: the first tokens and a window of the last ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.arrays import minimum
from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import CACHE, Target, Technique, parameter
from workloads.techniques.changes import caches, on


@dataclass(frozen=True)
class StreamingLlm(Technique):
    """Every position sees a few first tokens (attention sinks) and a window; the cache keeps only those."""

    name = "streaming-llm"
    aliases = ("attention-sinks", "sliding-window-cache")
    level = "model"
    category = "sparsification"
    paper = "StreamingLLM arXiv:2309.17453"
    removes = "keys and values beyond the window, from memory and from every step"
    adds = "nothing"
    needs = "an attention kernel with sinks and a window"
    quality = "lossy"
    slot = "which positions are attended to"
    order = CACHE

    sinks: int = parameter(4, "first tokens that stay (the paper: 4)", low=0, high=1024)
    window: int = parameter(1020, "last tokens that stay", low=1, high=10_000_000)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a cache by position."""
        return None if caches(schedule) else "the model keeps no keys and values"

    def apply(self, schedule: Schedule) -> Schedule:
        """A window as wide as sinks and window together does the same work."""
        kept = self.sinks + self.window

        def narrow(core: Any) -> Attention:
            window = kept if core.window is None else minimum(core.window, kept)
            return replace(core, window=window)  # type: ignore[no-any-return]

        seen = schedule.with_change(on(Attention, narrow))
        return seen.with_main(tokens=min(schedule.main.tokens, kept))
