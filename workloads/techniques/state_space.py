"""State-space models and hybrids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloads.blocks import AttentionBlock, Block, Mamba2Block
from workloads.schedule import Schedule
from workloads.techniques.base import STRUCTURE, Target, Technique, parameter
from workloads.techniques.changes import blocks

if TYPE_CHECKING:
    from workloads.layer import Layer
    from workloads.model import Model


@dataclass(frozen=True)
class StateSpace(Technique):
    """State-space mixers with a state of fixed size take the place of attention, in all layers or in most."""

    name = "state-space"
    aliases = ("mamba-2", "ssm", "hybrid", "jamba")
    level = "model"
    category = "efficient structure"
    paper = "Mamba-2 arXiv:2405.21060; Jamba arXiv:2403.19887"
    removes = "attention that grows with the context, and its cache"
    adds = "a state per sequence and layer that every step reads and writes"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    order = STRUCTURE

    attention: int = parameter(
        0, "every so many layers one keeps its attention (Jamba: 8); 0: none", low=0, high=1000
    )
    state: int = parameter(128, "elements of the state per channel (Mamba-2: 128)", low=1, high=4096)
    expand: int = parameter(2, "channels over the width of the model (Mamba-2: 2)", low=1, high=16)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """It replaces attention with key-value heads."""
        return None if blocks(schedule, AttentionBlock) else "the model has no attention with key-value heads"

    def apply(self, schedule: Schedule) -> Schedule:
        """Heads of 64 channels, a convolution over 4 positions, chunks of 256: the sizes of Mamba-2."""
        hidden = schedule.main.model.hidden
        mixer = Mamba2Block(max(1, self.expand * hidden // HEAD), HEAD, 1, self.state, kernel=4, chunk=256)

        def model(old: Model) -> Model:
            layers = tuple(
                layer
                if self.attention and index % self.attention == self.attention // 2
                else _with(layer, mixer)
                for index, layer in enumerate(old.layers)
            )
            return replace(old, stack=replace(old.stack, layers=layers))

        return schedule.with_model(model)


HEAD = 64


def _with(layer: Layer, mixer: Block) -> Layer:
    return replace(layer, blocks=tuple(mixer if isinstance(b, AttentionBlock) else b for b in layer.blocks))
