"""Read the tables of rules beside this module, in which the first rule that matches decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from specfiles.reading import read_yaml
from specfiles.strict import Strict, validated

Rule = TypeVar("Rule", bound=Strict)


class RuleFile(Strict, frozen=True, kw_only=True):
    """A table of rules of one kind."""

    schema: Literal[1]
    rules: list[Any]


def read_rules(file: str, kind: type[Rule]) -> list[Rule]:
    """The rules of a file in their order. Raises InputError naming the rule that breaks the schema."""
    path = Path(__file__).with_name(file)
    listed = validated(RuleFile, read_yaml(path), str(path)).rules
    return [validated(kind, rule, f"{path}, rule {number}") for number, rule in enumerate(listed, 1)]
