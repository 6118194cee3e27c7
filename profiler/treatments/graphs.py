"""A step launched as a CUDA graph."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.forward import Point, fixed_step
from profiler.graphs import GraphedStep
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, logits


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
