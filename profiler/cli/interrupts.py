"""Resend interrupts that Python drops.

Python runs a signal's handler between any two instructions. Exceptions do not leave a finaliser or a callback
of a weak reference or of the garbage collector: Python calls sys.unraisablehook and continues. A collection
may take part of a second without other instructions, so that a signal during it is always handled in such a
callback, if there is one.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN_S = 0.05  # delay: by then the callback has ended, or drops the interrupt again


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise again any KeyboardInterrupt that Python drops in the block."""
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
