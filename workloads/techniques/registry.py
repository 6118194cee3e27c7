"""Find techniques by name, and read them from the words of a command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, get_type_hints

from specfiles.errors import InputError, choose, plain
from workloads import techniques
from workloads.techniques.base import Technique

SHARED = frozenset(
    {"base", "branches", "changes", "compose", "decoding", "registry", "requests"}
)  # modules that hold no technique


@cache
def known() -> dict[str, type[Technique]]:
    """Every technique by its name, in the order of level and category."""
    found = sorted(_classes(), key=lambda t: (LEVELS.index(t.level), t.category, t.name))
    return {technique.name: technique for technique in found}


LEVELS = ("algorithm", "model", "system")


def _classes() -> Iterator[type[Technique]]:
    """The techniques of this package's modules: one each."""
    for module in iter_modules(techniques.__path__):
        if module.name not in SHARED:
            space = vars(import_module(f"{techniques.__name__}.{module.name}"))
            yield from (
                value
                for value in space.values()
                if isinstance(value, type)
                and issubclass(value, Technique)
                and value.__module__ == f"{techniques.__name__}.{module.name}"
                and hasattr(value, "name")
            )


def find(name: str) -> type[Technique]:
    """The technique of a name or alias; an InputError lists the nearest."""
    wanted = plain(name)
    for technique in known().values():
        if wanted in map(plain, (technique.name, *technique.aliases)):
            return technique
    raise choose(name, list(known()), "technique", do="`roofline techniques list` shows all.")


def parse(text: str) -> Technique:
    """A technique from `name` or `name:parameter=value,parameter=value`.

    Raises InputError for an unknown name or parameter, and for a value that is out of range.
    """
    name, given = re.fullmatch(r"(.*?)(?::(\w+=.*))?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    technique = find(name)
    types = get_type_hints(technique)
    options = {f.name: f for f in fields(technique)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for setting in filter(None, (given or "").split(",")):
        key, equals, value = setting.partition("=")
        if key not in options:
            raise choose(key, list(options), f"parameter of {technique.name}")
        if not equals:
            raise InputError(f"{technique.name}:{key} needs a value, as in {key}={options[key].default}.")
        values[key] = _value(technique.name, options[key], types[key], value)
    return technique(**values)


def _value(technique: str, option: Field[Any], kind: type, text: str) -> Any:
    low, high, among = (option.metadata[key] for key in ("low", "high", "among"))
    if kind is str and not among:
        return text
    expected = f"one of {', '.join(among)}" if among else f"{kind.__name__} from {low:g} to {high:g}"
    wrong = InputError(f"{technique}:{option.name} is {text!r}; expected {expected}.")
    if among:
        if text not in among:
            raise wrong
        return text
    try:
        value = kind(text)
    except ValueError:
        raise wrong from None
    if not low <= value <= high:
        raise wrong
    return value
