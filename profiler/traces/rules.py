"""Classify kernels by name, with a table of rules as data; each distinct name is matched once."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from profiler.traces.ruletables import read_rules
from specfiles.strict import Strict, Text

UNKNOWN = "unknown"
SPARSE = "sparse tensor cores: dense peaks are no ceiling"
COMMUNICATION = (
    "allreduce", "allgather", "reduce_scatter", "broadcast", "sendrecv", "alltoall", "communication",
)  # fmt: skip
MOVES = ("copy", "set")


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
    """The rule for a kernel's name; NO_RULE, of kind `unknown`, where none matches."""
    text = name[:1000]  # names begin with what the kernel is; template arguments may go on for pages
    return next((rule for pattern, rule in _rules() if pattern.search(text)), NO_RULE)
