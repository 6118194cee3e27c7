"""What every treatment answers: whether it runs here, and a step without and with its technique."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from profiler.ranges import family
from profiler.subject import Point, Subject
from workloads.model import Model
from workloads.techniques.base import Technique

Around = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Pair:
    """A step without and with a technique, ready to be run in turn.

    Each returns what it computed; what must hold while it runs is entered around it and not timed.
    """

    plain: Callable[[], Any]
    treated: Callable[[], Any]
    technique: Technique  # with what was found of its parameters
    around_plain: Around = nullcontext
    around_treated: Around = nullcontext
    difference: Callable[[], float] | None = None  # of results, where not those of the timed steps tell it
    tokens: float = 1  # decode steps' worth of work in each run
    treated_tokens: float | None = None  # the same of a run with the technique, where that is another number
    convention: str | None = None  # how the step without it is counted; None: as the model runs
    remark: str = (
        ""  # what of it is measured and what assumed, where a reader could mistake one for the other
    )
    ran: Technique | None = None  # what the kernels make of it, where that is another technique


class Treatment(ABC):
    """How a technique is run with PyTorch's public kernels."""

    name: ClassVar[str]  # of the technique
    phases: ClassVar[tuple[str, ...]] = ("prefill", "decode")
    # Results are those of the step without it but for rounding; otherwise how far they differ is stated.
    exact: ClassVar[bool] = False
    compared: ClassVar[bool] = True  # False where other weights make any comparison of results idle
    shared: ClassVar[bool] = False  # whether it runs on a model that processes share, each its part of it

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """Why it cannot be run here; None where it can."""
        return None

    def configs(self, technique: Any, model: Model) -> dict[str, dict[str, Any]]:
        """Configs of other models that it runs beside one, by the file of the run folder that keeps them.

        Raises InputError where they do not go together.
        """
        return {}

    @abstractmethod
    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The steps to compare. Raises InputError where the model or the point does not allow it."""


def logits(output: Any) -> Any:
    """A sampler that keeps everything: what steps are compared by."""
    return output


def apart(expected: Any, found: Any) -> float:
    """The largest difference of two results over the largest value."""
    return float((expected - found).abs().max() / expected.abs().max())


def layers(subject: Subject) -> Any:
    """The module list of the model's layers, and the module that holds it."""
    path = family(subject.loaded.model).layers
    parent = subject.network.get_submodule(path.rpartition(".")[0])
    return parent, path.rpartition(".")[2]


@contextmanager
def swapped(places: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes of modules exchanged inside the block: (module, name, what stands there instead)."""
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, other in places:
        setattr(module, name, other)
    try:
        yield
    finally:
        for (module, name, _), old in zip(places, before, strict=True):
            setattr(module, name, old)


def with_found(technique: Technique, **found: Any) -> Technique:
    """The technique with parameters that were measured."""
    return replace(technique, **found)  # type: ignore[type-var]
