"""Layers left out."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.subject import Point, Subject, step
from profiler.treatments.base import Pair, Treatment, layers, logits, swapped


class LayerPruning(Treatment):
    """The same step with some layers left out."""

    name = "layer-pruning"
    shared = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The layers that stay are those that the technique keeps."""
        run = partial(step(subject, point, point.kv_len), logits)
        kept = round(subject.layers * (1 - technique.ratio))
        return Pair(run, run, technique, around_treated=partial(swapped, [fewer(subject, max(1, kept))]))


def fewer(subject: Subject, kept: int) -> tuple[Any, str, Any]:
    """The place of the layers, and so many of them, spread evenly from the first."""
    import torch

    parent, name = layers(subject)
    every = getattr(parent, name)
    chosen = [every[index * len(every) // kept] for index in range(kept)]
    return parent, name, torch.nn.ModuleList(chosen)
