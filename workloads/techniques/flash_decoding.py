"""Flash-Decoding: the cache split over processors."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique
from workloads.techniques.conditions import attends, decodes


@dataclass(frozen=True)
class FlashDecoding(Technique):
    """The cache of a sequence is split over processors, whose partial results are combined."""

    name = "flash-decoding"
    aliases = ("split-kv", "split-k-attention")
    category = "graph and operator"
    paper = "Flash-Decoding, PyTorch blog 2023; FlashDecoding++ arXiv:2311.01282"
    removes = "idle processors where sequences and KV heads are fewer than processors"
    adds = "a partial result per split, and a small kernel that combines them"
    needs = "an attention kernel with splits"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how attention is spread over processors"
    without = {"splits_keys": False}

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """The convention must not count it already."""
        if not (attends(schedule) and decodes(schedule)):
            return "no position attends to a cache step by step"
        return self.already(schedule.convention) if schedule.convention.splits_keys else None

    def apply(self, schedule: Schedule) -> Schedule:
        """Every processor takes its share of the keys; partial results are too small to count."""
        return schedule.with_convention(splits_keys=True)
