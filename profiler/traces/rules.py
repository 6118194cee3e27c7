"""Classify kernels by name, with a table of rules as data; each distinct name is matched once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from specfiles.errors import InputError
from specfiles.reading import read_yaml
from specfiles.strict import Strict, Text, validated

TABLE = Path(__file__).with_name("kernel_rules.yaml")
UNKNOWN = "unknown"
SPARSE = "sparse tensor cores: dense peaks are no ceiling"
COMMUNICATION = (
    "allreduce",
    "allgather",
    "reduce_scatter",
    "broadcast",
    "sendrecv",
    "alltoall",
    "communication",
)
MOVES = ("copy", "set")


class Rule(Strict, frozen=True, kw_only=True):
    """Kernels whose names match any of the expressions."""

    kind: Text
    library: Text
    any: list[Text]
    phase: Literal["", "prefill", "decode"] = ""
    sparse: bool = False  # uses structured sparsity: a dense peak is no ceiling of it
    helper: bool = False  # prepares or ends another kernel's work


class RuleFile(Strict, frozen=True, kw_only=True):
    """The table of rules; the first that matches decides."""

    schema: Literal[1]
    rules: list[Rule]


@dataclass(frozen=True)
class Known:
    """The classification of a kernel by its name alone."""

    kind: str = UNKNOWN
    library: str = ""
    phase: str = ""
    sparse: bool = False
    helper: bool = False


@cache
def _rules() -> list[tuple[re.Pattern[str], Known]]:
    table = validated(RuleFile, read_yaml(TABLE), str(TABLE))
    try:
        return [
            (re.compile("|".join(f"(?:{e})" for e in rule.any), re.IGNORECASE), _known(rule))
            for rule in table.rules
        ]
    except re.error as error:
        raise InputError(f"{TABLE}: {error.pattern!r} is no regular expression ({error}).") from None


def _known(rule: Rule) -> Known:
    return Known(rule.kind, rule.library, rule.phase, rule.sparse, rule.helper)


@cache
def known_kernel(name: str) -> Known:
    """The kind, library and phase of a kernel; kind `unknown` where no rule knows it."""
    text = name[:1000]  # what a kernel is stands at the front; template arguments may go on for pages
    return next((known for pattern, known in _rules() if pattern.search(text)), Known())
