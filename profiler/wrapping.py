"""Callables with calls before and after them, in place of those that a model looks up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiler.recorders import Call

Function = Callable[..., Any]
Wrap = Callable[[Function], Function]


def with_calls(before: tuple[Call, ...], after: tuple[Call, ...]) -> Wrap:
    """A decorator that makes calls before and after the callable."""

    def wrap(function: Function) -> Function:
        if not (before or after):  # a range whose turn it is not
            return function

        def ranged(*args: Any, **kwargs: Any) -> Any:
            for call in before:
                call()
            try:
                return function(*args, **kwargs)
            finally:
                for call in after:
                    call()

        return ranged

    return wrap


@contextmanager
def replaced(owner: Any, attribute: str, wrap: Wrap) -> Iterator[None]:
    """Wrap an attribute inside the block and restore it after."""
    own = vars(owner).get(attribute)
    setattr(owner, attribute, wrap(getattr(owner, attribute)))
    try:
        yield
    finally:
        if own is not None:
            setattr(owner, attribute, own)
        else:
            delattr(owner, attribute)
