"""Resend interrupts that Python drops, and raise those again that somebody else's code swallows.

Python runs a signal's handler between any two instructions. Exceptions do not leave a finaliser or a callback
of a weak reference or of the garbage collector: Python calls sys.unraisablehook and continues. A collection
may take part of a second without other instructions, so that a signal during it is always handled in such a
callback, if there is one. Libraries catch everything in places (a bare `except`, an error that C code
clears), so the handler remembers that it was called, and a loop which goes on nevertheless can end.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN_S = 0.05  # delay: by then the callback has ended, or drops the interrupt again
_pressed: list[int] = []  # interrupts of the command that runs


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise again any KeyboardInterrupt that Python drops in the block."""
    before = sys.unraisablehook
    remembers = signal.getsignal(signal.SIGINT) is signal.default_int_handler and _in_main_thread()

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _press_again()
        else:
            before(dropped)

    sys.unraisablehook = hook
    if remembers:
        signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        if remembers:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = before
        _pressed.clear()


def raise_swallowed() -> None:
    """Raise the KeyboardInterrupt that should have ended the loop which calls this at every turn."""
    if _pressed:
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    """Whether signals may be handled otherwise here."""
    import threading

    return threading.current_thread() is threading.main_thread()


def _remember(number: int, _: object) -> None:
    _pressed.append(number)
    raise KeyboardInterrupt


def _press_again() -> None:
    """Interrupt the main thread from another thread."""
    import _thread
    import threading

    main = threading.main_thread().ident

    def press() -> None:
        if main is not None and hasattr(signal, "pthread_kill"):  # also wakes a waiting thread
            signal.pthread_kill(main, signal.SIGINT)
        else:
            _thread.interrupt_main()

    timer = threading.Timer(AGAIN_S, press)
    timer.daemon = True
    timer.start()
