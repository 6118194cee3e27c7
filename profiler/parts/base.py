"""What is known of a family's code: its modules, the gaps between them, and functions without a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FRAMEWORK = "framework."  # what the names of ranges begin with that are no operators of a description
INPUTS = FRAMEWORK + "inputs"  # positions, rotary tables, masks: between the embedding and the first layer
HEADS = FRAMEWORK + "heads"  # parts of heads taken apart, joined and copied between two operators
FACTORS = FRAMEWORK + "factors"  # constants beside activations, which weights could hold


@dataclass(frozen=True)
class Gap:
    """The time from the end of `after` to the start of `before` ("" is the end of the layer).

    `inside` a module the time ends where that module does: `before` is the module, then; or, of a module and
    a part of it, begins where that module does.
    """

    after: str
    before: str
    name: str
    inside: bool = False


@dataclass(frozen=True)
class Inside:
    """The modules and gaps of one kind of layer, by paths relative to it."""

    modules: Mapping[str, str]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class Family:
    """Where a family keeps its parts; names inside a layer are relative to it."""

    layers: str
    modules: Mapping[str, str]
    gaps: tuple[Gap, ...]
    outside: Mapping[str, str]
    # Where attention is code of the model's own: it lasts from the cache's update to the call of this module.
    attends_until: str = ""
    # Layers that differ from the others, by a module, or several joined by +, that only they have.
    kinds: Mapping[str, Inside] = field(default_factory=dict)
    # Ranges of functions that the model's own file looks up by name, and of updates of a recurrent state.
    functions: Mapping[str, str] = field(default_factory=dict)
    # Ranges behind which there is no module's end to go by: what runs there, up to the next range, is whose.
    behind: Mapping[str, str] = field(default_factory=dict)
    # The packages whose kernels transformers takes for some of these ranges where they are installed.
    packages: Mapping[str, str] = field(default_factory=dict)
    append: str = "layers.attention.kv_append"
    # Modules of a layer that rotate for themselves, with the ranges of that.
    rotations: Mapping[str, str] = field(default_factory=dict)
    sampling: str = "sampling"
    # Of two stacks: the one that runs first, and the modules of a layer that attend, with the ranges of that.
    encoder: Family | None = None
    attending: Mapping[str, str] = field(default_factory=dict)
    memory_append: str = ""  # the range in which the encoder's keys and values are kept

    @property
    def stacks(self) -> tuple[Family, ...]:
        """The parts of all stacks, in the order in which they run."""
        return (self.encoder, self) if self.encoder else (self,)

    @property
    def is_recurrent(self) -> bool:
        """Whether layers keep a state that each step overwrites."""
        return bool(self.packages)

    def inside(self, has: Callable[[str], bool]) -> Inside:
        """The parts of a layer, of which `has` tells whether it has a module."""
        return next(
            (kind for mark, kind in self.kinds.items() if all(map(has, mark.split("+")))), self._usual
        )

    @property
    def every_kind(self) -> tuple[Inside, ...]:
        """Of all kinds of layers."""
        return (self._usual, *self.kinds.values())

    @property
    def _usual(self) -> Inside:
        return Inside(self.modules, self.gaps)
