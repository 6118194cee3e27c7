"""Universal transformers: one layer, applied adaptively."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import share_of_layers, with_layers


@dataclass(frozen=True)
class Universal(Technique):
    """One layer is applied repeatedly, as often as each token needs."""

    name = "universal-transformer"
    aliases = ("adaptive-computation-time",)
    category = "dynamic inference"
    paper = "Universal Transformers arXiv:1807.03819"
    removes = "the weights of all layers but one; iterations of easy tokens"
    adds = "nothing"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "which layers run"
    assumed = ("iterations",)

    iterations: float = parameter(
        0.5, "mean iterations over the layers that the model has", low=0.001, high=10
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """The most frequent layer's weights in every place; each iteration reads them and caches its own."""
        usual, _ = schedule.main.model.stack.distinct.most_common(1)[0]
        again = replace(usual, repeats=True)
        found = with_layers(schedule, lambda old: (usual, *(again for _ in old[1:])))
        if self.iterations == 1:
            return found
        found = found.with_change(share_of_layers(self.iterations), held=False)
        return found.with_main(cache_factor=schedule.main.cache_factor * self.iterations)
