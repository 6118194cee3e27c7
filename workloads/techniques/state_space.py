"""State-space models and hybrids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from workloads.blocks import AttentionBlock, Block, ChannelMixBlock, Mamba2Block, MlpBlock, TimeMixBlock
from workloads.layer import Layer
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import with_layers
from workloads.techniques.conditions import no_heads


@dataclass(frozen=True)
class StateSpace(Technique):
    """State-space mixers with a state of fixed size take the place of attention, in all layers or in most."""

    name = "state-space"
    aliases = ("mamba-2", "mamba", "ssm")
    variants = {"hybrid": {"attention": 8}, "jamba": {"attention": 8}, "rwkv": {"mixer": "rwkv-4"}}
    category = "efficient structure"
    paper = "Mamba-2 arXiv:2405.21060; Jamba arXiv:2403.19887; RWKV arXiv:2305.13048"
    removes = "attention that grows with the context, and its cache"
    adds = "a state per sequence and layer that every step reads and writes"
    needs = "a model trained with it"
    quality = "retrained"
    slot = "the kind of attention"
    refused_by = (no_heads,)

    mixer: str = parameter("mamba-2", "what takes its place", among=("mamba-2", "rwkv-4"))
    attention: int = parameter(
        0, "every so many layers one keeps its attention (Jamba: 8); 0: none", low=0, high=1000
    )
    state: int = parameter(
        128, "elements of the state per channel of Mamba-2 (the paper: 128)", low=1, high=4096
    )
    expand: int = parameter(
        2, "channels of Mamba-2 over the width of the model (the paper: 2)", low=1, high=16
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """Mamba-2: heads of 64 channels, a convolution over 4 positions, chunks of 256. RWKV-4: as many
        channels as the model is wide, and a feed-forward block of its own of the same width.
        """
        hidden = schedule.main.model.hidden

        def layers(old: tuple[Layer, ...]) -> Iterator[Layer]:
            for index, layer in enumerate(old):
                kept = self.attention and index % self.attention == self.attention // 2
                yield layer if kept else self._mixed(layer, hidden)

        return with_layers(schedule, layers)

    def _mixed(self, layer: Layer, hidden: int) -> Layer:
        def block(old: Block) -> Block:
            if isinstance(old, AttentionBlock):
                return self._mixer(hidden)
            if isinstance(old, MlpBlock) and self.mixer == "rwkv-4":
                return ChannelMixBlock(hidden, old.width)
            return old

        return replace(layer, blocks=tuple(map(block, layer.blocks)))

    def _mixer(self, hidden: int) -> Block:
        if self.mixer == "rwkv-4":
            return TimeMixBlock(hidden, hidden)
        heads = max(1, self.expand * hidden // HEAD)
        return Mamba2Block(heads, HEAD, 1, self.state, kernel=4, chunk=256)


HEAD = 64
