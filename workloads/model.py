"""A model: one or more stacks of layers, each with its input and output blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks import Block, Part, Place
from workloads.dtypes import Precision, Size
from workloads.layer import Formats, Layer, in_formats
from workloads.step import Setting, Step

UNLIMITED = 100_000_000  # max_position of a model without position embeddings


@dataclass(frozen=True)
class Stack:
    """Layers of one width; `scope` is the prefix of their operator names where a model has several stacks."""

    hidden: int
    layers: tuple[Layer, ...]
    inputs: tuple[Block, ...] = ()
    outputs: tuple[Block, ...] = ()
    scope: str = ""  # "encoder." or "vision."
    drafts: int = 0  # modules of multi-token prediction in the checkpoint; no step runs them
    wide: bool = False  # keeps 16 bits where others are quantised, as vision towers do in checkpoints
    formats: Formats = ()  # of parts behind the layers that a checkpoint has in others than the setting's

    def __repr__(self) -> str:
        """One line; the blocks of all layers would fill pages of a notebook."""
        return f"<Stack: {len(self.layers)} layers of {self.hidden}>"

    @cached_property
    def distinct(self) -> Counter[Layer]:
        """The different layers and how many there are of each; cached, as comparing layers is slow."""
        return Counter(self.layers)

    def setting(self, asked: Setting) -> Setting:
        """How it is run where a model is run so."""
        return replace(asked, precision=asked.precision.unquantised) if self.wide else asked

    def ends(self, place: Place) -> Iterator[Part]:
        """The parts behind the layers."""
        parts = (part for block in self.outputs for part in block.parts(place))
        return in_formats(parts, self.formats) if self.formats else parts

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Bytes of cache that one device holds for one sequence after `tokens` positions."""
        return sum(n * layer.cache_bytes(tokens, setting) for layer, n in self.distinct.items())


@dataclass(frozen=True)
class Model:
    """A decoder; other architectures are subclasses (`workloads.architectures`)."""

    name: str
    family: str
    vocabulary: int
    max_position: int
    stack: Stack

    phases: ClassVar[tuple[str, ...]] = ("prefill", "decode", "generate")
    manner: ClassVar[str] = "is a decoder"
    has_memory: ClassVar[bool] = False  # decode steps attend to an encoder's output
    image_tokens: ClassVar[int] = 0  # prompt positions of one image
    audio_window: ClassVar[int] = 0  # positions that every prompt has: those of a window of audio

    @property
    def usual_phase(self) -> str:
        """The default phase."""
        return "generate" if "generate" in self.phases else self.phases[0]

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks; a step may run only some of them."""
        return (self.stack,)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.stack.hidden

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the main stack."""
        return self.stack.layers

    @property
    def mixed(self) -> bool:
        """Whether parts of it have formats of their own, as in a checkpoint that mixes some."""
        return bool(self.stack.formats) or any(layer.formats for layer in self.stack.distinct)

    def weights_format(self, precision: Precision) -> str:
        """The format of most weights, in a word that tells a checkpoint that mixes formats from others."""
        return f"{precision.weights} (checkpoint)" if self.mixed else str(precision.weights)

    @cached_property
    def owned(self) -> dict[Setting, Sequence[Any]]:
        """A cache for `workloads.phases.owners`: the operators that own the weights, by setting."""
        return {}

    def passes(self, step: Step) -> Iterator[tuple[Stack, Step]]:
        """The stacks that one step runs, each with its own sizes, in order."""
        yield self.stack, step

    def cache_bytes(self, batch: Size, tokens: Size, setting: Setting, memory: Size = 0) -> Any:
        """Bytes of keys, values and states that one device holds for `tokens` positions of each sequence.

        `memory` of these positions belong to the encoder, where the model has one.
        """
        return batch * self.stack.cache_bytes(tokens, setting)
