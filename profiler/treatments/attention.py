"""Fused attention against separate kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from profiler.attending import SEPARATE
from profiler.forward import Point
from profiler.subject import Subject, why_separate
from profiler.treatments.base import Pair, Treatment, step_logits
from specfiles.errors import InputError


class FlashAttention(Treatment):
    """PyTorch's fused attention against the model's own matrix products and softmax."""

    name = "flash-attention"
    shared = True
    two_stacks = True
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step with another implementation of attention."""
        if why := why_separate(subject.loaded.model):
            raise InputError(f"{subject.loaded.model.name} {why}.")
        run = step_logits(subject, point)
        return Pair(
            run,
            run,
            technique,
            around_plain=partial(_attending, subject.network, SEPARATE),
            around_treated=partial(_attending, subject.network, "sdpa"),
            convention="llm-viewer",
            remark=_copies(subject.network),
        )


def _copies(network: Any) -> str:
    """A remark where heads share keys and values, which the model's own attention copies."""
    heads = network.config.num_attention_heads
    if getattr(network.config, "num_key_value_heads", None) in (None, heads):
        return ""
    return "without it keys and values are copied for each head that shares them, which is not predicted"


@contextmanager
def _attending(network: Any, implementation: str) -> Iterator[None]:
    before = network.config._attn_implementation
    network.set_attn_implementation(implementation)
    try:
        yield
    finally:
        network.set_attn_implementation(before)
