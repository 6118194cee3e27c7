"""Learned corrections of calibrated times: small trees per kernel, in a file beside the calibrations.

They are read only where the corrected fidelity is asked for. A file holds numbers and names alone, and every
index in it is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hwspecs.calibrations import FOLDER
from hwspecs.schema import Kernel
from specfiles.errors import plain
from specfiles.strict import MOST, NotNegative, Positive, Strict, Text, read_record

CORRECTORS = FOLDER / "correctors"
MOST_BYTES = 8_000_000
MOST_NODES, DEEPEST = 20_000, 64  # of a corrector, of a tree
LEAF = -1

Number = Annotated[float, msgspec.Meta(gt=-MOST, lt=MOST)]


class Corrector(Strict, frozen=True, kw_only=True):
    """Trees whose sum is the logarithm of measured / calibrated, for one kernel of one device.

    Trees stand one after the other, each in preorder: `splits` names the feature that a node compares (LEAF
    where it is a leaf), `numbers` its threshold, below or at which the first branch is taken, or a leaf's
    value. `beside` identifies the constants that it was trained beside: with others it means nothing.
    """

    op: Text
    dtype: Text
    kv_dtype: str = ""
    backend: str = ""
    kernel: str = ""
    beside: Text
    features: list[Text]
    box: list[tuple[Number, Number]]  # smallest and largest of each feature in the rows it was trained on
    base: Number
    splits: Annotated[list[int], msgspec.Meta(max_length=MOST_NODES)]
    numbers: Annotated[list[Number], msgspec.Meta(max_length=MOST_NODES)]
    points: Annotated[int, msgspec.Meta(gt=0)]
    families: Annotated[int, msgspec.Meta(gt=0)]
    calibrated_error: NotNegative  # mean |predicted / measured - 1| on families held out, before
    held_out_error: NotNegative  # and after
    applied: Annotated[float, msgspec.Meta(ge=0, le=1)]  # share of those rows inside the box of the others
    bands: list[tuple[Positive, Positive, Positive]]  # up to this time in s; measured / predicted from, to
    coverage: NotNegative
    source: Text

    def __post_init__(self) -> None:
        """Refuse trees that end too early or late, compare what is not there, or are too deep."""
        if len(self.box) != len(self.features):
            raise ValueError(f"{len(self.features)} features need as many ranges, not {len(self.box)}")
        if len(self.splits) != len(self.numbers):
            raise ValueError(f"{len(self.splits)} nodes need as many numbers, not {len(self.numbers)}")
        if not self.bands:
            raise ValueError("bands are missing")
        check_preorder(self.splits, len(self.features))


class Shipped(Strict, frozen=True, kw_only=True):
    """The correctors of one device."""

    schema_version: Literal[1] = msgspec.field(name="schema")
    device: Text
    correctors: list[Corrector]


def check_preorder(splits: Sequence[int], features: int) -> None:
    """Raises ValueError where these are not whole trees over so many features."""
    waiting: list[int] = []  # branches that nodes above still lack
    for split in splits:
        if not LEAF <= split < features:
            raise ValueError(f"a node compares feature {split} of {features}")
        if split != LEAF:
            waiting.append(2)
            if len(waiting) > DEEPEST:
                raise ValueError(f"a tree is deeper than {DEEPEST} nodes")
            continue
        while waiting:
            waiting[-1] -= 1
            if waiting[-1]:
                break
            waiting.pop()
    if waiting:
        raise ValueError("the last tree is not whole")


def fingerprint(kernel: Kernel) -> str:
    """Of a kernel's constants: 16 hexadecimal digits that change with any of them."""
    values = json.dumps(sorted(kernel.values.items()))
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def correctors_of(device: str) -> tuple[Corrector, ...]:
    """The shipped correctors of a device; none where nobody trained any."""
    paths = {plain(path.stem): path for path in sorted(CORRECTORS.glob("*.json"))}
    path = paths.get(plain(device))
    return tuple(read_correctors(path).correctors) if path else ()


@cache
def read_correctors(path: Path) -> Shipped:
    """A file of correctors; raises InputError where it breaks the schema or its trees are not whole."""
    return read_record(Shipped, path, most_bytes=MOST_BYTES)
