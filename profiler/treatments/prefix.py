"""Reuse of a cached prefix."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, cached_logits


class Prefix(Treatment):
    """Keys and values of the prefix are cached; only the rest of the prompt is read."""

    name = "prefix-caching"
    shared = True
    phases = ("prefill",)
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same prompt from its start, and from the end of the cached prefix."""
        cache = preallocated(subject.layers, point.kv_len)
        tokens = subject.tokens(point.batch, point.q_len)
        new = max(1, round(point.q_len * (1 - technique.hit)))  # as the technique rounds

        def run(known: int) -> Any:
            rewind(cache, known)
            return cached_logits(subject.network, cache, tokens[:, known:])

        run(0)  # fills the cache
        return Pair(partial(run, 0), partial(run, point.q_len - new), technique)
