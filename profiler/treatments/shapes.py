"""A smaller model: layers left out, fewer key-value heads."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, layers, step_logits, swapped
from specfiles.errors import InputError


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


class GroupedQuery(Treatment):
    """A model of the same shape with fewer key-value heads and random weights."""

    name = "grouped-query-attention"
    compared = False

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step of both models."""
        import torch
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(subject.network.config)
        if not hasattr(config, "num_key_value_heads"):
            raise InputError(f"{subject.loaded.model.name} has no number of key-value heads in its config.")
        config.num_key_value_heads = technique.kv_heads
        with torch.device(subject.device):
            other = AutoModelForCausalLM.from_config(
                config, dtype=subject.network.dtype, attn_implementation=subject.attention
            )
        shared = Subject(subject.loaded, other.eval(), subject.device, subject.dtype, "random")
        return Pair(step_logits(subject, point), step_logits(shared, point), technique)
