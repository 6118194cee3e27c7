"""Layers left out."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, layers, step_logits, swapped


class LayerPruning(Treatment):
    """The same step without some of the layers."""

    name = "layer-pruning"
    shared = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The technique decides how many layers are kept."""
        run = step_logits(subject, point)
        kept = round(subject.layers * (1 - technique.ratio))
        return Pair(run, run, technique, around_treated=partial(swapped, [fewer(subject, max(1, kept))]))


def fewer(subject: Subject, kept: int) -> tuple[Any, str, Any]:
    """The replacement of the list of layers by `kept` of them, evenly spaced from the first."""
    import torch

    parent, name = layers(subject)
    every = getattr(parent, name)
    chosen = [every[index * len(every) // kept] for index in range(kept)]
    return parent, name, torch.nn.ModuleList(chosen)
