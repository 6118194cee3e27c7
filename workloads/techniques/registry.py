"""Find techniques by name, and parse them from a command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, get_type_hints

from specfiles.errors import InputError, choose, plain
from workloads import techniques
from workloads.techniques.base import Technique
from workloads.techniques.serving import SERVING, ServingMethod


@cache
def known() -> dict[str, type[Technique]]:
    """Every technique by its name, in the order of level and category."""
    found = sorted(_classes(), key=lambda t: (t.level, t.category, t.name))
    return {technique.name: technique for technique in found}


def offered() -> list[Technique]:
    """What is tried where none is named: each with its defaults, then in other formats and sizes."""
    return [technique(**values) for technique in known().values() for values in ({}, *technique.tried)]


def _classes() -> Iterator[type[Technique]]:
    """The techniques of this package's modules."""
    for module in iter_modules(techniques.__path__, f"{techniques.__name__}."):
        for value in vars(import_module(module.name)).values():
            own = isinstance(value, type) and value.__module__ == module.name
            if own and issubclass(value, Technique) and value is not Technique:
                yield value


def find(name: str) -> type[Technique]:
    """The technique of a name, alias or variant; InputError lists the nearest."""
    return _named(name)[0]


def serving_method(name: str) -> ServingMethod | None:
    """The method of serving of a name or alias."""
    return next((m for m in SERVING if spoken(name) in map(spoken, (m.name, *m.aliases))), None)


def _named(name: str) -> tuple[type[Technique], Mapping[str, Any]]:
    """A technique and the parameters that go with the name."""
    found = names().get(spoken(name))
    if found is not None:
        return found
    if (method := serving_method(name)) is not None:
        raise InputError(
            f"{method.name} is a method of serving, no technique of one request: "
            f"ask `roofline serve` with {method.option}."
        )
    every = [called for t in known().values() for called in (t.name, *t.variants)]
    others = {alias: t.name for t in known().values() for alias in t.aliases}
    raise choose(name, every, "technique", do="`roofline techniques list` shows all.", aliases=others)


@cache
def names() -> dict[str, tuple[type[Technique], Mapping[str, Any]]]:
    """Every name in normal form, with its technique and the parameters it implies."""
    found: dict[str, tuple[type[Technique], Mapping[str, Any]]] = {}
    for technique in known().values():
        for name in (technique.name, *technique.aliases, *technique.variants):
            found[spoken(name)] = (technique, technique.variants.get(name, {}))
    return found


def spoken(name: str) -> str:
    """A name's normal form for comparison: one spelling, without punctuation and plural s."""
    return plain(name).replace("iz", "is").replace(".", "").removesuffix("s")


@cache
def _types(technique: type[Technique]) -> dict[str, Any]:
    """The types of its parameters: annotations are text, and reading it takes longer than all else."""
    return get_type_hints(technique)


NUMBERS = {int: "a whole number", float: "a number"}


def parse(text: str) -> Technique:
    """A technique from `name` or `name:parameter=value,parameter=value`; a variant's name sets some itself.

    Raises InputError for an unknown name or parameter, and for a value that is out of range.
    """
    name, given = re.fullmatch(r"(.*?)(?::(\w+=.*))?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    technique, meant = _named(name)
    types = _types(technique)
    options = {f.name: f for f in fields(technique)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for setting in filter(None, (given or "").split(",")):
        key, equals, value = setting.partition("=")
        if key not in options:
            raise choose(key, list(options), f"parameter of {technique.name}")
        if not equals:
            raise InputError(f"{technique.name}:{key} needs a value, as in {key}={options[key].default}.")
        if key in values:
            raise InputError(f"{technique.name}:{key} is given twice; leave one out.")
        values[key] = _value(technique.name, options[key], types[key], value)
    return technique(**{**meant, **values})


def _value(technique: str, option: Field[Any], kind: type, text: str) -> Any:
    low, high, among = (option.metadata[key] for key in ("low", "high", "among"))
    if kind is str and not among:
        return text
    expected = f"one of {', '.join(among)}" if among else f"{NUMBERS[kind]} from {low:g} to {high:g}"
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
