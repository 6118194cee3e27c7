"""The file that describes a sweep: lists, of which every combination is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

import msgspec

from specfiles.strict import Strict
from workloads.descriptor import SIZES, SPLITS, Counts, Dtypes, axes

MOST_POINTS = 100_000_000
Words = Annotated[list[str], msgspec.Meta(min_length=1, max_length=10_000)]


class Spec(Strict, frozen=True, kw_only=True):
    """A sweep.

    models, hardware: names or paths. batch, prompt, context, output: one size or several. dtypes: formats to
    compare. techniques: lists of techniques that apply together, `[]` for none of them. engines: inference
    engines around each point (`predict --engine`), `none` for operators alone.
    """

    schema_version: Literal[1] = msgspec.field(name="schema")
    name: str
    description: str = ""
    models: Words
    hardware: Words
    phase: Literal["prefill", "decode", "generate"] = "generate"
    batch: Counts = 1
    prompt: Counts = 1024
    context: Counts | None = None
    output: Counts = 128
    dtypes: Annotated[list[Dtypes], msgspec.Meta(min_length=1, max_length=1000)] = msgspec.field(
        default_factory=lambda: [Dtypes()]
    )
    tensor_parallel: Counts = 1
    expert_parallel: Counts = 1
    pipeline_parallel: Counts = 1
    techniques: Annotated[list[list[str]], msgspec.Meta(min_length=1, max_length=1000)] = msgspec.field(
        default_factory=lambda: [[]]
    )
    engines: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)] = msgspec.field(
        default_factory=lambda: ["none"]
    )
    fidelity: Literal["datasheet", "measured", "calibrated", "corrected"] = "datasheet"
    convention: str = "fused"

    def __post_init__(self) -> None:
        """Refuse more points than a disk would hold."""
        if self.points() > MOST_POINTS:
            raise ValueError(f"the sweep has {self.points()} points; at most {MOST_POINTS}.")

    def sizes(self) -> list[dict[str, int]]:
        """Every combination of batch, prompt, context and output, without what is not given."""
        named = (zip(SIZES, point, strict=True) for point in product(*axes(self, SIZES)))
        return [{name: size for name, size in point if size is not None} for point in named]

    def points(self) -> int:
        """How many predictions it asks for."""
        lists = "models", "hardware", "dtypes", "techniques", "engines"
        return prod(map(len, axes(self, (*SIZES, *SPLITS, *lists))))

    def tasks(self) -> Iterator[Task]:
        """What is computed, and kept, at once: a model on a device with a set of techniques and an engine."""
        for one in product(self.models, self.hardware, self.techniques, self.engines):
            model, hardware, techniques, engine = one
            yield Task(self, model, hardware, tuple(techniques), engine)


class Task(Strict, frozen=True, kw_only=False):
    """A part of a sweep: all sizes, formats and splits of one model on one device."""

    spec: Spec
    model: str
    hardware: str
    techniques: tuple[str, ...]
    engine: str

    def key(self) -> str:
        """A name for its file that differs where anything of the task does."""
        import hashlib

        said: Any = msgspec.to_builtins(self)
        return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()[:16]
