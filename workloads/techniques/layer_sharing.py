"""Weights shared between layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from workloads.layer import Layer
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_layers


@dataclass(frozen=True)
class LayerSharing(Technique):
    """Neighbouring layers run with the same weights."""

    name = "layer-sharing"
    aliases = ("mobilellm", "mobilellm-ls", "block-wise-sharing")
    category = "efficient structure"
    paper = "MobileLLM arXiv:2402.14905; ALBERT arXiv:1909.11942"
    removes = "weights in memory"
    adds = "nothing: every layer still runs and reads its weights"
    needs = "a model trained with shared layers"
    quality = "retrained"
    slot = "how layers share weights"

    shared: int = parameter(2, "neighbours that share (MobileLLM: 2)", low=1, high=1000)

    def apply(self, schedule: Schedule) -> Schedule:
        """The first layer of a group owns the weights; another kind of layer has its own, as have caches."""

        def layers(old: tuple[Layer, ...]) -> Iterator[Layer]:
            for index, layer in enumerate(old):
                after = index % self.shared  # its place in the group
                yield replace(layer, repeats=True) if after and layer == old[index - after] else layer

        return with_layers(schedule, layers)
