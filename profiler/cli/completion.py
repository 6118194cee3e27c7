"""What the shell completes beside commands and options: names of models, devices, techniques; paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from specfiles.errors import plain


def _names(known: Callable[[], Iterable[str]]) -> Callable[..., list[Any]]:
    """Those that begin as what was typed, however it is written; a path where none does."""

    def found(ctx: click.Context, param: click.Parameter, typed: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        fitting = [name for name in known() if plain(name).startswith(plain(typed))]
        return list(map(CompletionItem, fitting)) or [CompletionItem(typed, type="file")]

    return found


def _models() -> Iterable[str]:
    from workloads.catalogue import MODELS
    from workloads.descriptor import DESCRIPTORS

    return (each.names(path)[0] for each in (DESCRIPTORS, MODELS) for path in each)


def _devices() -> Iterable[str]:
    from hwspecs.loader import HARDWARE

    return (HARDWARE.names(path)[0] for path in HARDWARE)  # aliases may have spaces


def _techniques() -> Iterable[str]:
    from workloads.techniques.registry import known

    return (called for technique in known().values() for called in (technique.name, *technique.aliases))


models, devices, techniques = map(_names, (_models, _devices, _techniques))
