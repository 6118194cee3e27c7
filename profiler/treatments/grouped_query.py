"""Fewer key-value heads."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from profiler.subject import Point, Subject, step
from profiler.treatments.base import Pair, Treatment, logits
from specfiles.errors import InputError


class GroupedQuery(Treatment):
    """A model of the same shape with fewer key-value heads and random weights, which take as long."""

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
        plain, treated = (partial(step(s, point, point.kv_len), logits) for s in (subject, shared))
        return Pair(plain, treated, technique)
