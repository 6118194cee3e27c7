"""Whoever presses the keys once ends the command, wherever Python happens to be."""

from __future__ import annotations

import gc
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from profiler.interrupts import interrupts_kept, raise_swallowed


def press() -> None:
    """What the terminal does; the handler runs at once, in the thread that is interrupted."""
    signal.raise_signal(signal.SIGINT)


class Finalised:
    def __del__(self) -> None:
        press()


def in_a_finaliser() -> None:
    Finalised()


def in_a_weak_reference() -> None:
    thing = {1}
    kept = weakref.ref(thing, lambda _: press())
    del thing
    assert kept() is None


def in_a_collection() -> None:
    """As a signal does that comes while garbage is searched for: callbacks are the first code that runs."""
    gc.callbacks.append(lambda phase, _: press() if phase == "stop" else None)
    try:
        gc.collect()
    finally:
        gc.callbacks.pop()


@pytest.fixture(autouse=True)
def as_a_command() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


PLACES = pytest.mark.parametrize("place", [in_a_finaliser, in_a_weak_reference, in_a_collection])


@PLACES
def test_an_interrupt_that_python_drops_comes_again(place: Callable[[], None]) -> None:
    ended: list[str] = []

    def command() -> None:
        with interrupts_kept():
            place()
            time.sleep(300)
            ended.append("by itself")

    with pytest.raises(KeyboardInterrupt):
        command()
    assert not ended


@PLACES
def test_python_would_drop_it(place: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing of this is needed."""
    dropped: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))
    place()
    assert dropped == [KeyboardInterrupt]


def test_other_errors_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    mine = lambda dropped: told.append(dropped.exc_type)  # noqa: E731
    monkeypatch.setattr(sys, "unraisablehook", mine)

    class Failing:
        def __del__(self) -> None:
            raise ValueError

    with interrupts_kept():
        Failing()
    assert told == [ValueError]
    assert sys.unraisablehook is mine


def test_a_loop_ends_although_its_interrupt_was_swallowed() -> None:
    """As by a bare `except` in a library that one of its turns calls."""
    turns: list[int] = []

    def command() -> None:
        with interrupts_kept():
            for turn in range(10):
                raise_swallowed()
                turns.append(turn)
                with suppress(BaseException):
                    if turn == 3:
                        press()

    with pytest.raises(KeyboardInterrupt):
        command()
    assert turns == [0, 1, 2, 3]
    raise_swallowed()  # the next command is not ended
