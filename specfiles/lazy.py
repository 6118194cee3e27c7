"""Packages that import their modules on first use: a prediction needs few of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

IMPORTED = re.compile(r"^    from (\S+) import (\w+) as \2$", re.MULTILINE)


def exported(package: str) -> dict[str, str]:
    """Name -> module, as a package imports them under TYPE_CHECKING: type checkers read no other list."""
    source = sys.modules[package].__spec__.loader.get_source(package)  # type: ignore[union-attr]
    return {name: module for module, name in IMPORTED.findall(source)}


def names_of(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of a package, from the module of each of its names."""

    def __getattr__(name: str) -> Any:  # noqa: N807  (the name that Python looks for)
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    return __getattr__
