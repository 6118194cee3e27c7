"""Read a step's phase, sequences and lengths from its annotation, with a table of rules as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from profiler.traces.rules import read_rules
from specfiles.strict import Strict, Text


class StepRule(Strict, frozen=True, kw_only=True):
    """Annotations that match the expression as a whole."""

    name: Text
    phase: Literal["", "prefill", "decode"] = ""


@dataclass(frozen=True)
class StepFacts:
    """The facts of one step; zero where the annotation does not state one."""

    phase: str = ""
    prefill: int = 0  # sequences that read their prompt
    decode: int = 0  # sequences that yield one more token
    prefill_tokens: int = 0
    decode_tokens: int = 0  # several of each sequence where drafts are verified
    kv: int = 0  # visible positions of the decoding sequences, summed
    prefill_kv: int = 0
    padded: int = 0  # tokens that the step was padded to

    @property
    def tokens(self) -> int:
        """New positions that were computed, with padding; one of each sequence where none are stated."""
        return self.padded or (self.prefill_tokens or self.prefill) + (self.decode_tokens or self.decode)

    @property
    def sequences(self) -> int:
        """Sequences in the step."""
        return self.prefill + self.decode

    @property
    def kv_tokens(self) -> int:
        """Visible positions of all sequences, summed."""
        return self.kv + self.prefill_kv

    @property
    def known(self) -> bool:
        """Whether the annotation describes a step."""
        return bool(self.phase)


@cache
def _rules() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(rule.name), rule.phase) for rule in read_rules("step_rules.yaml", StepRule)]


@cache
def step_facts(annotation: str) -> StepFacts:
    """The facts in an annotation's text; phase "" where it describes no step."""
    text = annotation[:300]
    for pattern, phase in _rules():
        if found := pattern.fullmatch(text):
            numbers = {k: int(v) for k, v in found.groupdict().items() if v and len(v) < 16}
            return StepFacts(phase or _phase(numbers), **numbers)
    return StepFacts()


def _phase(numbers: dict[str, int]) -> str:
    prefill, decode = numbers.get("prefill", 0), numbers.get("decode", 0)
    return "mixed" if prefill and decode else "prefill" if prefill else "decode" if decode else ""
