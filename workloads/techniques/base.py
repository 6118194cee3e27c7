"""The interface of all techniques."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from specfiles.errors import choose
from workloads.convention import Convention
from workloads.schedule import Schedule

QUALITIES = ("exact", "lossy", "retrained")  # labels of the output, from the mildest
# What the techniques of a category change: the algorithm, the model, or the system.
LEVELS = {
    "alternative paradigms": "algorithm",
    "efficient decoding": "algorithm",
    "input compression": "algorithm",
    "output organisation": "algorithm",
    "dynamic inference": "model",
    "efficient structure": "model",
    "knowledge distillation": "model",
    "quantisation": "model",
    "sparsification": "model",
    "graph and operator": "system",
    "memory management": "system",
    "offloading": "system",
}
# What techniques decide, in the order in which they apply, whatever the order given; of one group by name.
SLOTS = (
    ("how sequences are batched",),
    ("what of the prompt is read",),
    (
        "the kind of attention",
        "the kind of feed-forward block",
        "the width of layers",
        "how layers share weights",
        "how many experts there are",
        "how many layers there are",
        "which layers run",
        "which model answers",
    ),
    ("how layers share keys and values",),  # after techniques that remove layers
    ("the rank of projections",),  # before formats, which then apply to both matrices
    ("the format of weights",),
    ("which weights are zero",),
    ("which positions are attended to", "the format of the KV cache"),
    ("how the answer is organised",),  # before techniques that decode several tokens at once
    ("how tokens are made",),
    (
        "the attention kernel",
        "how attention is spread over processors",
        "how flat products are tiled",
        "how elementwise operators are launched",
        "how kernels are launched",
        "how projections are launched",
    ),
    ("how the cache is laid out", "where the cache is kept", "where weights are kept", "reuse of prefixes"),
)
ORDERS = {slot: order for order, slots in enumerate(SLOTS) for slot in slots}


@dataclass(frozen=True)
class Target:
    """The properties of a device that techniques depend on."""

    name: str
    dtypes: frozenset[str]  # formats of its matrix units
    structured_sparsity: float | None  # peak with 2:4 sparsity over the dense peak
    host_byte_per_s: float | None  # of the link to the host, one direction
    disk: bool  # whether the host's disks are known
    host_memory: bool  # whether the bandwidth of the host's memory to its CPUs is known
    memory_bytes: float
    launch_s: float | None = None  # measured, from one operator to the next
    graph_launch_s: float | None = None  # the same in a replayed graph
    is_host: bool = False  # a CPU, with operands already in host memory

    def no_host(self) -> str | None:
        """Why nothing can be offloaded to the host's memory; None where it can."""
        if self.is_host:
            return f"{self.name} is the host: what it computes with is in its memory as it is"
        return None if self.host_byte_per_s else f"{self.name} has no link to a host in its file"

    def no_disk(self) -> str | None:
        """Why nothing can be offloaded to the host's disks; None where it can."""
        return None if self.disk else f"{self.name} has no disk in its file; add `links.disk`"


class Technique(ABC):
    """One optimisation method; the fields of a subclass, a frozen dataclass, are its parameters."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    # Variants: further names, and the parameters that they stand for.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Parameters that `whatif` tries beside the defaults: formats, each for itself, and sizes for the best.
    tried: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    category: ClassVar[str]  # one of LEVELS
    level: ClassVar[str]  # follows from the category
    paper: ClassVar[str] = ""
    removes: ClassVar[str] = "part of the work"
    adds: ClassVar[str] = "nothing"
    needs: ClassVar[str] = "nothing"  # hardware, kernels, training
    quality: ClassVar[str]  # of the output, one of QUALITIES: a label, never a number
    # Engines of which the documentation lists it; empty: none, or it is a property of the model.
    served: ClassVar[str] = ""
    slot: ClassVar[str]  # what it decides, one of SLOTS: techniques with the same slot exclude each other
    also_decides: ClassVar[tuple[str, ...]] = ()  # further slots
    refused_by: ClassVar[tuple[Callable[[Schedule], str | None], ...]] = ()  # techniques.conditions
    applies_with: ClassVar[str] = ""  # the slot with which it applies, if that is not its own
    order: ClassVar[int]  # follows from the slot
    # A convention's text where kernels lack it; empty where no convention counts it.
    without: ClassVar[Mapping[str, Any]] = {}
    # Parameters that are not a choice: the model, its training or the requests determine them.
    assumed: ClassVar[tuple[str, ...]] = ()
    guessed: ClassVar[tuple[str, ...]] = ()  # those of them whose default nobody published
    # Whether sizes may be arrays, as it changes operators of all sizes alike and is refused for no size.
    on_arrays: ClassVar[bool] = False
    of_requests: ClassVar[bool] = False  # its gain is a property of the requests
    example: ClassVar[str] = "Llama-3.1-8B --hw h100"  # arguments of `predict` that it applies to

    def __init_subclass__(cls) -> None:
        for fact, known in (("category", LEVELS), ("quality", QUALITIES), ("slot", ORDERS)):
            if (stated := getattr(cls, fact, "")) not in known:
                raise choose(stated, list(known), f"{fact} of techniques")
        cls.level = LEVELS[cls.category]
        cls.order = ORDERS[cls.applies_with or cls.slot]

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Why it cannot be applied here; None where it can."""
        return next(filter(None, (reason(schedule) for reason in self.refused_by)), None)

    @abstractmethod
    def apply(self, schedule: Schedule) -> Schedule:
        """The schedule with the technique."""

    @classmethod
    def counted(cls, convention: Convention) -> bool:
        """Whether predictions of a convention count it already."""
        return any(getattr(convention, name) != lacks for name, lacks in cls.without.items())

    @classmethod
    def already(cls, convention: Convention) -> str:
        """Why it cannot be applied where it is counted already, and the alternative."""
        return f"the convention {convention.name} counts it already; --without {cls.name} takes it out"

    @classmethod
    def decides(cls) -> tuple[str, ...]:
        """The slots that it occupies: two techniques for one slot exclude each other."""
        return (cls.slot, *cls.also_decides)

    def assumes(self) -> str:
        """The assumed parameters that its gain depends on, as `accept=0.75`; empty where all are choices."""
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]

        def told(name: str) -> str:
            value = getattr(self, name)
            guess = " (a guess)" if name in self.guessed and value == defaults[name] else ""
            return f"{name}={value:g}{guess}"

        return ", ".join(map(told, self.assumed))

    def told(self) -> str:
        """Its name and parameters in the syntax of the command line."""
        return self._written([f.name for f in fields(self)])  # type: ignore[arg-type]

    def called(self) -> str:
        """The same, short: its format and size, which its name does not say, and what is not the default."""
        options = fields(self)  # type: ignore[arg-type]
        sizes = {name for values in self.tried for name in values}.difference(self.assumed)
        told = {"format"} | sizes
        return self._written(
            [f.name for f in options if f.name in told or getattr(self, f.name) != f.default]
        )

    def alike(self) -> tuple[str, str]:
        """What it shares with itself in other sizes: its name and its format."""
        return self.name, getattr(self, "format", "")

    def _written(self, names: Sequence[str]) -> str:
        values = ((name, getattr(self, name)) for name in names)
        given = ",".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
        )
        return f"{self.name}:{given}" if given else self.name


def parameter(
    default: Any, why: str, *, low: float | None = None, high: float | None = None, among: Sequence[str] = ()
) -> Any:
    """A parameter: its default, the source of the default, and the allowed range."""
    return field(default=default, metadata={"why": why, "low": low, "high": high, "among": tuple(among)})
