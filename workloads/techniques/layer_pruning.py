"""Pruning of whole layers."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_fewer_layers


@dataclass(frozen=True)
class LayerPruning(Technique):
    """Layers that change the residual stream least are removed for good."""

    name = "layer-pruning"
    aliases = ("shortgpt", "depth-pruning")
    category = "sparsification"
    paper = "ShortGPT arXiv:2403.03853"
    removes = "whole layers: their weights, their work and their cache"
    adds = "nothing"
    needs = "a measure of what a layer changes; optionally short fine-tuning"
    quality = "lossy"
    slot = "how many layers there are"

    ratio: float = parameter(0.25, "share of layers removed (ShortGPT: 0.25)", low=0, high=0.95)

    def apply(self, schedule: Schedule) -> Schedule:
        """Every kind of layer keeps its share."""
        return with_fewer_layers(schedule, 1 - self.ratio)
