"""Elementwise operators fused by torch.compile."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.compiled import CompiledStep, refuse_uncompilable
from profiler.forward import Point, fixed_step, greedy
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, logits
from specfiles.errors import InputError


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
