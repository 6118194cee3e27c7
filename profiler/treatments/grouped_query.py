"""Fewer key-value heads."""

from __future__ import annotations

import copy
from typing import Any

from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, step_logits
from specfiles.errors import InputError


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
