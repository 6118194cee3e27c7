"""Whoever presses the keys once ends the command, wherever Python happens to be."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from profiler.interrupts import AGAIN_S, interrupts_kept, raise_swallowed


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


def in_another_thread(ready: threading.Event, stop: threading.Event) -> None:
    ready.set()
    stop.wait(300)


def interrupted_elsewhere(command: Callable[[], None]) -> None:
    """Run a command during which the system delivers an interrupt to a thread other than the main one."""
    ready, stop = threading.Event(), threading.Event()
    other = threading.Thread(target=in_another_thread, args=(ready, stop), daemon=True)
    other.start()
    ready.wait(300)
    assert other.ident is not None
    sender = threading.Timer(0.05, signal.pthread_kill, (other.ident, signal.SIGINT))
    sender.start()
    try:
        command()
    finally:
        stop.set()
        sender.join()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_an_interrupt_that_another_thread_gets_wakes_the_main_one() -> None:
    ended: list[str] = []

    def command() -> None:
        with interrupts_kept():
            time.sleep(300)
            ended.append("by itself")

    with pytest.raises(KeyboardInterrupt):
        interrupted_elsewhere(command)
    assert not ended


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_an_interrupt_of_a_forked_process_is_its_own() -> None:
    with interrupts_kept():
        if not (child := os.fork()):
            with suppress(KeyboardInterrupt):
                press()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        time.sleep(5 * AGAIN_S)
        raise_swallowed()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here")
def test_other_signals_and_handlers_are_left_alone() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with interrupts_kept():
            signal.raise_signal(signal.SIGUSR1)
            ours = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
            press()
            time.sleep(5 * AGAIN_S)
            signal.signal(signal.SIGINT, ours)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1, signal.SIGINT]


def test_one_interrupt_is_raised_once() -> None:
    """Not again where what was measured is being saved."""
    saved: list[str] = []

    def command() -> None:
        with interrupts_kept():
            try:
                press()
            finally:
                time.sleep(5 * AGAIN_S)
                saved.append("all")

    with pytest.raises(KeyboardInterrupt):
        command()
    assert saved == ["all"]


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
