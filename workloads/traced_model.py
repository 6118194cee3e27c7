"""A module whose one pass was traced, as a model: its operators are the calls that were seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks import Block, Part, Place
from workloads.model import UNLIMITED, Model, Stack
from workloads.operators import Operator

TRACED = "traced"  # the family of modules that were traced
Call = tuple[str, Operator]  # the name of the module that made it with the operation's, and what it counts as


@dataclass(frozen=True)
class Calls(Block):
    """The operators that were seen, in order."""

    rows: tuple[Call, ...]

    def parts(self, place: Place) -> Iterator[Part]:
        """Each call; equal ones under one name become one row."""
        for name, operator in self.rows:
            yield name, operator, operator


@dataclass(frozen=True)
class TracedModel(Model):
    """A module whose one pass at one size was traced."""

    phases: ClassVar[tuple[str, ...]] = ("prefill",)
    manner: ClassVar[str] = "is a traced module, of which one pass is predicted"


def traced_model(name: str, calls: Sequence[Call]) -> TracedModel:
    """The model of a module's calls."""
    return TracedModel(name, TRACED, 0, UNLIMITED, Stack(0, (), inputs=(Calls(tuple(calls)),)))
