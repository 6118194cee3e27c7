"""Workload descriptors: the YAML file that says which model is run how, shared and versioned.

It names a model with its phase, batch and lengths (each a number or a list: the grid of all
combinations), or lists operators with their sizes for something that is not a model we know.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from specfiles.catalogue import Catalogue
from specfiles.errors import InputError, plain
from specfiles.reading import parse_yaml, read_text, read_yaml
from specfiles.strict import Strict, validated
from workloads.dtypes import Precision
from workloads.traffic import Traffic

Count = Annotated[int, msgspec.Meta(gt=0, le=100_000_000)]
Counts = Count | Annotated[list[Count], msgspec.Meta(min_length=1, max_length=1000)]
MOST_POINTS = 10_000
CHECKPOINT = "checkpoint"  # as weights: the formats of the published checkpoint (workloads.checkpoint)
SIZES = ("batch", "prompt", "context", "output")  # that a grid combines
SPLITS = ("tensor_parallel", "expert_parallel", "pipeline_parallel")  # over devices


class Dtypes(Strict, frozen=True, kw_only=True):
    """Formats by name; what is not given follows from the weights."""

    weights: str = "bf16"
    activations: str | None = None
    kv: str | None = None
    experts: str | None = None  # the weights of experts, where their format is another
    expert_activations: str | None = None  # what experts multiply in, where that is another

    def precision(self) -> Precision:
        """The formats by their names, as options of the command line give them."""
        if CHECKPOINT in (self.activations, self.kv, self.experts, self.expert_activations):
            raise InputError(
                f"{CHECKPOINT} is a format of weights alone; with it the others follow the checkpoint, too, "
                "where they are not given."
            )
        if self.weights == CHECKPOINT:
            raise InputError(f"weights: {CHECKPOINT} needs a model with its config; give a format here.")
        return Precision.of(self.weights, self.activations, self.kv, self.experts, self.expert_activations)


class Descriptor(Strict, frozen=True, kw_only=True):
    """One workload file."""

    schema_version: Literal[1] = msgspec.field(name="schema")
    name: str
    description: str = ""
    model: str | None = None
    phase: Literal["prefill", "decode", "generate", "denoise"] | None = None  # the model's own by default
    batch: Counts = 1
    prompt: Counts = 1024
    context: Counts | None = None
    output: Counts = 128
    steps: Count | None = None
    images: Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] = 0
    dtypes: Dtypes = Dtypes()
    tensor_parallel: Count = 1
    expert_parallel: Count = 1
    pipeline_parallel: Count = 1
    traffic: Traffic | None = None
    operators: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=100_000)] = []

    def __post_init__(self) -> None:
        """Refuse a file that names two kinds of work or none, and a grid without end."""
        if (self.model is None) == (not self.operators):
            raise ValueError("give either `model` or `operators`, one of the two.")
        if self.points_in_grid() > MOST_POINTS:
            raise ValueError(f"the grid has {self.points_in_grid()} points; at most {MOST_POINTS}.")

    def points_in_grid(self) -> int:
        """How many combinations of sizes the lists span."""
        return prod(map(len, axes(self, SIZES)))

    def points(self) -> list[dict[str, int | None]]:
        """Every combination of SIZES, in the order written, and what is fixed."""
        fixed = {"steps": self.steps, "images": self.images}
        return [{**dict(zip(SIZES, point, strict=True)), **fixed} for point in product(*axes(self, SIZES))]


def axes(record: Strict, names: Sequence[str]) -> list[list[Any]]:
    """The values of some fields, each one or a list, as lists."""
    values = (getattr(record, name) for name in names)
    return [value if isinstance(value, list) else [value] for value in values]


def _names(path: Path) -> list[str]:
    line = next((line for line in read_text(path).splitlines() if line.startswith("name:")), "name: ''")
    return [str(parse_yaml(line, str(path))["name"])]


DESCRIPTORS = Catalogue("workload", Path(__file__).parent / "descriptors", (".yaml", ".yml"), _names)


def load_descriptor(asked: str | Path) -> Descriptor:
    """The descriptor for a shipped name or a path; InputError names the file and the key."""
    path = DESCRIPTORS.find(str(asked))
    return validated(Descriptor, read_yaml(path), str(path))


def is_descriptor(asked: str) -> bool:
    """Whether an argument means a workload file rather than a model: a YAML path or a shipped name."""
    return asked.endswith(DESCRIPTORS.suffixes) or plain(asked) in {plain(p.stem) for p in DESCRIPTORS}
