"""Neighbouring layers share weights, or keys and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock
from workloads.layer import Layer
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import with_layers
from workloads.techniques.conditions import no_heads


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
    on_arrays = True

    shared: int = parameter(2, "neighbours that share (MobileLLM: 2)", low=1, high=1000)

    def apply(self, schedule: Schedule) -> Schedule:
        """The first layer of a group owns the weights; another kind of layer has its own, as have caches."""

        def layers(old: tuple[Layer, ...]) -> Iterator[Layer]:
            for index, layer in enumerate(old):
                after = index % self.shared  # its place in the group
                yield replace(layer, repeats=True) if after and layer == old[index - after] else layer

        return with_layers(schedule, layers)


@dataclass(frozen=True)
class CrossLayerAttention(Technique):
    """Of neighbouring layers the first makes keys and values, and the others attend to the same."""

    name = "cross-layer-attention"
    aliases = ("cla", "cross-layer-kv-sharing", "kv-sharing")
    variants = {"cla3": {"shared": 3}}
    category = "efficient structure"
    paper = "Cross-Layer Attention arXiv:2405.12981"
    removes = "the cache of layers that share, and their key and value projections"
    adds = "nothing: every layer still reads the keys and values that it attends to"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "how layers share keys and values"
    on_arrays = True
    # Other kinds of attention cache something else, with no definition of sharing it.
    also_decides = ("the kind of attention",)

    shared: int = parameter(2, "neighbours that share (CLA2, CLA3)", low=1, high=1000)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be keys and values to share, within one stage of a pipeline."""
        if schedule.main.setting.pipeline_parallel > 1:
            return "what layers share would have to be sent from stage to stage"
        return no_heads(schedule)

    def apply(self, schedule: Schedule) -> Schedule:
        """Neighbours of one kind share: a layer with a window borrows from one with the same window."""

        def layers(old: tuple[Layer, ...]) -> Iterator[Layer]:
            seen = Counter[Layer]()
            for layer in old:
                yield _borrowing(layer) if seen[layer] % self.shared else layer
                seen[layer] += 1

        return with_layers(schedule, layers)


def _borrowing(layer: Layer) -> Layer:
    return replace(
        layer,
        blocks=tuple(replace(b, borrows=True) if isinstance(b, AttentionBlock) else b for b in layer.blocks),
    )
