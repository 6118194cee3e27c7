"""What a model is made of: stacks of layers with what leads into them and out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks import (
    RMS_NORM,
    Block,
    EmbeddingNorm,
    FinalNorm,
    Head,
    NormShape,
    PositionTable,
    TokenTable,
)
from workloads.layer import Layer

if TYPE_CHECKING:
    from workloads.dtypes import Size
    from workloads.step import Setting, Step


UNLIMITED = 100_000_000  # positions of a model that has no table and no rule for them


@dataclass(frozen=True)
class Stack:
    """Layers of one width; `scope` leads the names of their ranges where a model has several stacks."""

    hidden: int
    layers: tuple[Layer, ...]
    inputs: tuple[Block, ...] = ()
    outputs: tuple[Block, ...] = ()
    scope: str = ""  # "encoder." or "vision."

    def __repr__(self) -> str:
        """Not every block of every layer, which fills pages of a notebook."""
        return f"<Stack: {len(self.layers)} layers of {self.hidden}>"

    @cached_property
    def distinct(self) -> Counter[Layer]:
        """Its different layers and how many there are of each: eighty are compared only once."""
        return Counter(self.layers)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Bytes that one device keeps of a sequence after `tokens` positions."""
        return sum(n * layer.cache_bytes(tokens, setting) for layer, n in self.distinct.items())


@dataclass(frozen=True)
class Model:
    """A model whose main stack yields tokens."""

    name: str
    family: str
    vocabulary: int
    max_position: int
    stack: Stack

    phases: ClassVar[tuple[str, ...]] = ("prefill", "decode", "generate")
    manner: ClassVar[str] = "is a decoder"
    has_memory: ClassVar[bool] = False  # decode steps attend to an encoder's result
    image_tokens: ClassVar[int] = 0  # prompt positions that one image becomes

    @property
    def usual_phase(self) -> str:
        """What is asked of it where nobody says."""
        return "generate" if "generate" in self.phases else self.phases[0]

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks, whichever a step runs."""
        return (self.stack,)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.stack.hidden

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the main stack."""
        return self.stack.layers

    @cached_property
    def owned(self) -> dict[Setting, Sequence[Any]]:
        """The operators that own its weights, by setting (`workloads.phases.owners` fills it)."""
        return {}

    def passes(self, step: Step) -> Iterator[tuple[Stack, Step]]:
        """The stacks that one step runs, each with its own sizes, in order."""
        yield self.stack, step

    def cache_bytes(self, batch: Size, tokens: Size, setting: Setting, memory: Size = 0) -> Any:
        """Bytes of keys, values and states that one device keeps for `tokens` positions a sequence.

        `memory` of them are an encoder's, where the model has one.
        """
        return batch * self.stack.cache_bytes(tokens, setting)


def decoder(
    family: str,
    hidden: int,
    vocabulary: int,
    layers: tuple[Layer, ...],
    max_position: int,
    *,
    tied: bool,
    norm: NormShape = RMS_NORM,
    learned_positions: int = 0,
    head_bias: bool = False,
    embedding_norm: NormShape | None = None,
) -> Model:
    """A decoder-only model: tokens in, layers, a norm, the vocabulary; its name is set later."""
    positions = (PositionTable(learned_positions),) if learned_positions else ()
    norms = (EmbeddingNorm(embedding_norm),) if embedding_norm else ()
    stack = Stack(
        hidden,
        layers,
        inputs=(TokenTable(vocabulary), *positions, *norms),
        outputs=(FinalNorm(norm), Head(vocabulary, tied, head_bias)),
    )
    return Model("", family, vocabulary, max_position, stack)
