"""The parts of a family's code: modules, gaps between them, and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FRAMEWORK = "framework."  # prefix of ranges that are not operators of the descriptor
INPUTS = FRAMEWORK + "inputs"  # positions, rotary tables, masks: between the embedding and the first layer
HEADS = FRAMEWORK + "heads"  # parts of heads split, joined and copied between two operators
FACTORS = FRAMEWORK + "factors"  # constant factors of activations, which weights could include

ATTENTION, MLP = "layers.attention", "layers.mlp"


def named(module: str, block: str, *same: str, **others: str) -> dict[str, str]:
    """The ranges of parts of a module: operators of a block, of the same names or of others."""
    names = {name: name for name in same} | others
    return {f"{module}.{part}": f"{block}.{name}" for part, name in names.items()}


@dataclass(frozen=True)
class Gap:
    """The time from the end of `after` to the start of `before` ("" is the end of the layer).

    A gap `inside` a module ends where the module `before` ends; or, where `before` is a part of `after`, it
    begins where `after` begins.
    """

    after: str
    before: str
    name: str
    inside: bool = False


def norms(attention: str, mlp: str) -> dict[str, str]:
    """The norms before a layer's two blocks."""
    return {attention: f"{ATTENTION}_norm", mlp: f"{MLP}_norm"}


def residuals(attention: str, norm: str, mlp: str) -> tuple[Gap, Gap]:
    """The sums behind a layer's two blocks: after `attention` up to the next `norm`, and after `mlp`."""
    return Gap(attention, norm, f"{ATTENTION}_residual"), Gap(mlp, "", f"{MLP}_residual")


@dataclass(frozen=True)
class Inside:
    """The modules and gaps of one kind of layer, by paths relative to it."""

    modules: Mapping[str, str]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class Family:
    """The parts of a family; paths inside a layer are relative to it."""

    layers: str
    modules: Mapping[str, str]
    gaps: tuple[Gap, ...]
    outside: Mapping[str, str]
    # With attention in the model's own code: it lasts from the cache update to the call of this module.
    attends_until: str = ""
    # Other kinds of layers, by a module, or several joined by +, that only they have.
    kinds: Mapping[str, Inside] = field(default_factory=dict)
    # Ranges of functions that the model's own file looks up by name, and of updates of recurrent states.
    functions: Mapping[str, str] = field(default_factory=dict)
    # The range of the time after a range, up to the next one, where no module ends between them.
    behind: Mapping[str, str] = field(default_factory=dict)
    # The packages whose kernels transformers uses for some ranges, if installed; "" where it has none.
    packages: Mapping[str, str] = field(default_factory=dict)
    append: str = "layers.attention.kv_append"
    # Modules or methods of the model, run before its layers, after which inputs are prepared.
    prepares: tuple[str, ...] = ()
    # A module of those outside the layers that also runs before them, and its range there.
    early: tuple[str, str] = ("", "")
    # Of a model that makes its residual streams of the embedding: the module or function behind which it
    # does, the module before which that is done, and the range.
    widens: tuple[str, str] = ("", "")
    widened: str = "hyper_copies"
    # Modules of a layer that rotate for themselves, with the ranges of that; "" is the layer itself, and as
    # a range none, where other ranges hold the rotation.
    rotations: Mapping[str, str] = field(default_factory=dict)
    sampling: str = "sampling"
    # With two stacks: the one that runs first, and the ranges of attention by module of a layer.
    encoder: Family | None = None
    attending: Mapping[str, str] = field(default_factory=dict)
    memory_append: str = ""  # the range of appending the encoder's keys and values

    @property
    def stacks(self) -> tuple[Family, ...]:
        """The parts of all stacks, in the order in which they run."""
        return (self.encoder, self) if self.encoder else (self,)

    @property
    def is_recurrent(self) -> bool:
        """Whether layers keep a state that each step overwrites."""
        return bool(self.packages)

    def inside(self, has: Callable[[str], bool]) -> Inside:
        """The parts of a layer; `has` tells whether it has a module."""
        return next(
            (kind for mark, kind in self.kinds.items() if all(map(has, mark.split("+")))),
            Inside(self.modules, self.gaps),
        )
