"""Modules and methods of a model, by their paths."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.parts.base import Family, Inside


def parts_inside(parts: Family, layer: Any) -> Inside:
    """The parts of a layer, by its kind."""
    return parts.inside(partial(has, layer))


def has(layer: Any, path: str) -> bool:
    """Whether a layer or a model has a module; the attribute may exist and be None."""
    try:
        return module_at(layer, path) is not None
    except (AttributeError, IndexError):
        return False


def callable_at(root: Any, path: str) -> tuple[Any, str]:
    """The owner and attribute called at a path: a module's forward, or a method."""
    found = module_at(root, path)
    if hasattr(found, "forward"):
        return found, "forward"
    owner, _, method = path.rpartition(".")
    return module_at(root, owner), method


def module_at(root: Any, path: str) -> Any:
    """What is at a path such as `model.layers.3.mlp`; the root itself at an empty one."""
    for part in filter(None, path.split(".")):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root
