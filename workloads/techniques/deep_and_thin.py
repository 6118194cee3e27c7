"""Depth against width at equal parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock, Block, MlpBlock
from workloads.layer import Layer
from workloads.model import Model
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter


@dataclass(frozen=True)
class DeepAndThin(Technique):
    """More layers of less width, with about as many parameters in them."""

    name = "deep-and-thin"
    aliases = ("depth-over-width", "tiny-model", "depth-width")
    category = "efficient structure"
    paper = "MobileLLM arXiv:2402.14905, section 2.2.2"
    removes = "width: tables of tokens, activations, keys and values of each layer"
    adds = "layers, one after the other: kernels, and keys and values of each"
    needs = "a model trained in this shape"
    quality = "retrained"
    slot = "the width of layers"
    also_decides = ("how many layers there are",)

    depth: float = parameter(2.5, "layers over those of the model (MobileLLM: 30 for 12)", low=0.1, high=10)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Every layer must be attention and a feed-forward block, whose width is known here."""
        model = schedule.main.model
        kinds = {type(block) for layer in model.layers for block in layer.blocks}
        if len(model.stacks) > 1 or not kinds <= {AttentionBlock, MlpBlock}:
            return "the model has layers or stacks besides attention and dense feed-forward blocks"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """A layer's matrices are hidden x width: both shrink by the root of the depth."""
        kept = self.depth**-0.5

        def block(old: Block) -> Block:
            if isinstance(old, MlpBlock):
                return replace(old, width=max(1, round(old.width * kept)))
            assert isinstance(old, AttentionBlock)
            return _with_heads(old, kept)

        def layer(old: Layer) -> Layer:
            return replace(old, blocks=tuple(map(block, old.blocks)))

        def model(old: Model) -> Model:
            count = max(1, round(len(old.layers) * self.depth))
            layers = tuple(layer(old.layers[i * len(old.layers) // count]) for i in range(count))
            hidden = max(1, round(old.stack.hidden * kept))
            return replace(old, stack=replace(old.stack, hidden=hidden, layers=layers))

        return schedule.with_model(model)


def _with_heads(old: AttentionBlock, kept: float) -> AttentionBlock:
    """Whole groups of heads that share a KV head; where there is one, fewer heads of it."""
    groups = max(1, round(old.kv_heads * kept))
    each = old.heads // old.kv_heads
    if old.kv_heads == 1:
        each = max(1, round(each * kept))
    return replace(old, heads=each * groups, kv_heads=groups)
