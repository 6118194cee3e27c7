"""A cache that spares work: of a prefix that is known, of a window that is attended to."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, apart, cached_logits
from specfiles.errors import InputError


class Prefix(Treatment):
    """Keys and values of the prefix are cached; only the rest of the prompt is read."""

    name = "prefix-caching"
    shared = True
    phases = ("prefill",)
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same prompt from its start, and from the end of the cached prefix."""
        cache = preallocated(subject.cached_layers, point.kv_len)
        tokens = subject.tokens(point.batch, point.q_len)
        new = max(1, round(point.q_len * (1 - technique.hit)))  # as the technique rounds

        def run(known: int) -> Any:
            rewind(cache, known)
            return cached_logits(subject.network, cache, tokens[:, known:])

        run(0)  # fills the cache
        return Pair(partial(run, 0), partial(run, point.q_len - new), technique)


class Window(Treatment):
    """A rolling cache of the last positions, which a decode step reads."""

    name = "window-attention"
    shared = True
    phases = ("decode",)  # a prompt would need a kernel with a window
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """For the comparison of results the plain step masks positions outside the window."""
        import torch

        kept = technique.window - 1
        before = point.kv_len - 1
        if kept >= before:
            raise InputError(
                f"a window of {technique.window} holds all {point.kv_len} tokens; choose a smaller one."
            )
        full, rolling = (
            preallocated(subject.cached_layers, point.kv_len),
            preallocated(subject.cached_layers, kept + 1),
        )
        network, token = subject.network, subject.tokens(point.batch, 1)
        cached_logits(network, full, subject.tokens(point.batch, before))
        if kept:
            for source, target in zip(full.layers, rolling.layers, strict=True):
                target.update(source.keys[:, :, -kept:], source.values[:, :, -kept:])
        seen = torch.zeros(point.batch, point.kv_len, dtype=torch.long, device=subject.device)
        seen[:, -technique.window :] = 1
        at = torch.full((point.batch, 1), before, device=subject.device)

        def run(cache: Any, length: int, **masked: Any) -> Any:
            rewind(cache, length)
            return cached_logits(network, cache, token, position_ids=at, **masked)

        masked, treated = partial(run, full, before, attention_mask=seen), partial(run, rolling, kept)
        return Pair(
            partial(run, full, before), treated, technique, difference=lambda: apart(masked(), treated())
        )
