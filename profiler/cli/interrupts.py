"""No interrupt is lost: one that could not be raised where it came is sent again a moment later.

Python runs a signal's handler between any two instructions. In a finaliser, or in a callback of a weak
reference or of the garbage collector, no exception gets out: Python tells sys.unraisablehook and goes on as
if nobody had pressed a key. A collection takes part of a second in which no other instructions run, so that
a signal that comes meanwhile always finds such a callback, where there is one.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN_S = 0.05  # later: what dropped the interrupt has ended by then, or drops it again


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Inside, a KeyboardInterrupt that Python drops is raised again."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _press_again()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _press_again() -> None:
    """Interrupt the main thread from another one, which needs no place in the main thread to do it."""
    import _thread
    import threading

    main = threading.main_thread().ident

    def press() -> None:
        if main is not None and hasattr(signal, "pthread_kill"):  # wakes it where it waits, too
            signal.pthread_kill(main, signal.SIGINT)
        else:
            _thread.interrupt_main()

    timer = threading.Timer(AGAIN_S, press)
    timer.daemon = True
    timer.start()
