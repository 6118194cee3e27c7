"""Reuse of a prefix."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.subject import Point, Subject
from profiler.treatments.base import Pair, Treatment


class Prefix(Treatment):
    """Keys and values of the beginning stand in the cache; the rest of the prompt is read."""

    name = "prefix-caching"
    shared = True
    phases = ("prefill",)
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same prompt from its beginning, and from where the cache ends."""
        cache = preallocated(subject.layers, point.kv_len)
        tokens = subject.tokens(point.batch, point.q_len)
        new = max(1, round(point.q_len * (1 - technique.hit)))  # as the technique counts them

        def run(known: int) -> Any:
            rewind(cache, known)
            options = {"use_cache": True, "logits_to_keep": 1}
            return subject.network(tokens[:, known:], past_key_values=cache, **options).logits

        run(0)  # leaves every position in the cache
        return Pair(partial(run, 0), partial(run, point.q_len - new), technique)
