"""Techniques that a convention counts already, and conventions without them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from specfiles.errors import InputError
from workloads.convention import AND, WITHOUT, Convention
from workloads.techniques.registry import find, known


def lacking(convention: Convention, names: Iterable[str]) -> Convention:
    """The convention of kernels or memory without these techniques, with a name that states them.

    Raises InputError for a technique that it does not count.
    """
    for technique in dict.fromkeys(map(find, names)):
        if not technique.counted(convention):
            countable = ", ".join(name for name, each in known().items() if each.counted(convention))
            raise InputError(
                f"{technique.name} is not counted in a prediction of convention {convention.name}, so it "
                f"cannot be left out; these can: {countable or 'none'}."
            )
        convention = replace(
            convention,
            name=f"{convention.name}{AND if WITHOUT in convention.name else WITHOUT}{technique.name}",
            explanation=f"{convention.explanation}; with {technique.removes}",
            **technique.without,
        )
    return convention
