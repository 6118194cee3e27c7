"""Weights shared between layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloads.schedule import Schedule
from workloads.techniques.base import STRUCTURE, Technique, parameter

if TYPE_CHECKING:
    from workloads.model import Model


@dataclass(frozen=True)
class LayerSharing(Technique):
    """Neighbouring layers run with the same weights."""

    name = "layer-sharing"
    aliases = ("mobilellm", "mobilellm-ls", "block-wise-sharing")
    level = "model"
    category = "efficient structure"
    paper = "MobileLLM arXiv:2402.14905; ALBERT arXiv:1909.11942"
    removes = "weights in memory"
    adds = "nothing: every layer still runs and reads its weights"
    needs = "a model trained with shared layers"
    quality = "retrained"
    slot = "how layers share weights"
    order = STRUCTURE

    shared: int = parameter(2, "neighbours that share (MobileLLM: 2)", low=1, high=1000)

    def apply(self, schedule: Schedule) -> Schedule:
        """The first layer of a group owns the weights; another kind of layer has its own, as have caches."""

        def model(old: Model) -> Model:
            layers = tuple(
                replace(layer, repeats=True)
                if index % self.shared and layer == old.layers[index - index % self.shared]
                else layer
                for index, layer in enumerate(old.layers)
            )
            return replace(old, stack=replace(old.stack, layers=layers))

        return schedule.with_model(model)
