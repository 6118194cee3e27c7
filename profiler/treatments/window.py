"""Attention in a window, by a cache that holds no more."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.subject import Point, Subject
from profiler.treatments.base import Pair, Treatment, apart, logits
from specfiles.errors import InputError


class Window(Treatment):
    """A rolling cache of the last positions: a decode step reads no others."""

    name = "window-attention"
    shared = True
    phases = ("decode",)  # a prompt would need a kernel that skips what lies outside
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """Without: all positions, those outside the window masked, so that both give the same logits."""
        import torch

        kept = technique.window - 1
        before = point.kv_len - 1
        if kept >= before:
            raise InputError(
                f"a window of {technique.window} holds all {point.kv_len} tokens; choose a smaller one."
            )
        full, rolling = preallocated(subject.layers, point.kv_len), preallocated(subject.layers, kept + 1)
        network, token = subject.network, subject.tokens(point.batch, 1)
        network(subject.tokens(point.batch, before), past_key_values=full, use_cache=True, logits_to_keep=1)
        if kept:
            for source, target in zip(full.layers, rolling.layers, strict=True):
                target.update(source.keys[:, :, -kept:], source.values[:, :, -kept:])
        seen = torch.zeros(point.batch, point.kv_len, dtype=torch.long, device=subject.device)
        seen[:, -technique.window :] = 1
        at = torch.full((point.batch, 1), before, device=subject.device)

        def run(cache: Any, length: int, **masked: Any) -> Any:
            rewind(cache, length)
            options = {"use_cache": True, "logits_to_keep": 1, "position_ids": at, **masked}
            return logits(network(token, past_key_values=cache, **options).logits)

        masked, treated = partial(run, full, before, attention_mask=seen), partial(run, rolling, kept)
        return Pair(
            partial(run, full, before), treated, technique, difference=lambda: apart(masked(), treated())
        )
