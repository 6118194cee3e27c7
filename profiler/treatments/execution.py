"""The same results another way: fused attention, compiled elementwise operators, a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from profiler.attending import SEPARATE
from profiler.compiled import CompiledStep, refuse_uncompilable
from profiler.forward import Point, fixed_step, greedy
from profiler.graphs import GraphedStep
from profiler.subject import Subject, why_separate
from profiler.treatments.base import Pair, Treatment, logits, step_logits
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


class FusedElementwise(Treatment):
    """The eager step and the compiled one, in which operators between products share kernels."""

    name = "fused-elementwise"
    shared = True
    two_stacks = True
    exact = True

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """Where there is no compiler."""
        try:
            refuse_uncompilable(device)
        except InputError as reason:
            return str(reason).rstrip(".")
        return None

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """Both with the same cache; compile time is not part of a step."""
        run = partial(fixed_step(subject, point), logits)
        compiled = CompiledStep(subject, lambda _: run())  # logits, whatever sampler it is given
        breaks = f", graph broken by {'; '.join(compiled.breaks)}" if compiled.breaks else ""
        remark = f"compiled in {compiled.compile_s:.0f} s, apart from its times{breaks}"
        return Pair(run, partial(compiled, greedy), technique, remark=remark)


class CudaGraphs(Treatment):
    """The step launched kernel by kernel, and replayed from its capture."""

    name = "cuda-graphs"
    exact = True

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """On a CPU."""
        return None if device.startswith("cuda") else "a CPU has no CUDA graphs"

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """Both with the same cache."""
        run = partial(fixed_step(subject, point), logits)
        return Pair(run, GraphedStep(subject, lambda _: run()), technique)
