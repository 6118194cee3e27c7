"""Rules as data, in tables in which the first that matches decides; and those of kernels, by name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from specfiles.reading import read_yaml
from specfiles.strict import Strict, Text, validated

UNKNOWN = "unknown"
SPARSE = "sparse tensor cores: dense peaks are no ceiling"
COMMUNICATION = (
    "allreduce", "allgather", "reduce_scatter", "broadcast", "sendrecv", "alltoall", "communication",
)  # fmt: skip
MOVES = ("copy", "set")


OfKind = TypeVar("OfKind", bound=Strict)


class RuleFile(Strict, frozen=True, kw_only=True):
    """A table of rules of one kind."""

    schema: Literal[1]
    rules: list[Any]


def read_rules(file: str, kind: type[OfKind]) -> list[OfKind]:
    """The rules of a file in their order. Raises InputError naming the rule that breaks the schema."""
    path = Path(__file__).with_name(file)
    listed = validated(RuleFile, read_yaml(path), str(path)).rules
    return [validated(kind, rule, f"{path}, rule {number}") for number, rule in enumerate(listed, 1)]


class Rule(Strict, frozen=True, kw_only=True):
    """Kernels whose names match any of the expressions."""

    kind: Text
    library: Text
    any: list[Text]
    phase: Literal["", "prefill", "decode"] = ""
    sparse: bool = False  # uses structured sparsity: a dense peak is no ceiling of it
    helper: bool = False  # prepares or ends another kernel's work


NO_RULE = Rule(kind=UNKNOWN, library=UNKNOWN, any=[])


@cache
def _rules() -> list[tuple[re.Pattern[str], Rule]]:
    return [
        (re.compile("|".join(f"(?:{e})" for e in rule.any), re.IGNORECASE), rule)
        for rule in read_rules("kernel_rules.yaml", Rule)
    ]


@cache
def known_kernel(name: str) -> Rule:
    """The rule for a kernel's name, matched once; NO_RULE, of kind `unknown`, where none matches."""
    text = name[:1000]  # names begin with what the kernel is; template arguments may go on for pages
    return next((rule for pattern, rule in _rules() if pattern.search(text)), NO_RULE)
