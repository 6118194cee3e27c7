"""Resend interrupts that Python drops or hears too late, and raise those again that a library swallows.

Python runs a signal's handler in the main thread, between any two instructions. Three ways lose an interrupt:

- The system may deliver it to another thread, and a main thread that waits (for a lock, a process, a device)
  is not woken. Python's own part of the handler writes to a pipe then, too; a thread reads there.
- Exceptions do not leave a finaliser or a callback of a weak reference or of the garbage collection: Python
  calls sys.unraisablehook and continues. A collection may take part of a second without other instructions,
  so that a signal during it is always handled in such a callback, if there is one.
- Libraries catch everything in places (a bare `except`, an error that C code clears), so the handler
  remembers that it was called, and a loop which goes on nevertheless can end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN_S = 0.05  # delay: by then the handler has run, and a callback has ended or drops the interrupt again
DROPPED = 0  # the number of no signal
_pressed: list[int] = []  # interrupts of the command that runs


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise again any KeyboardInterrupt that Python drops in the block, and wake the main thread for each."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _in_main_thread():
        yield
        return
    before, watch = sys.unraisablehook, _Watch()

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            watch.dropped()
        else:
            before(dropped)

    sys.unraisablehook = hook
    signal.signal(signal.SIGINT, watch.handle)
    try:
        yield
    finally:
        watch.end()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = before
        _pressed.clear()


@contextmanager
def interruptible_children() -> Iterator[None]:
    """Let programs that are started in the block hear interrupts.

    A shell's background jobs ignore them, and so would all that they start: what is ignored stays so in a new
    program, while handlers do not.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN or not _in_main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def raise_swallowed() -> None:
    """Raise the KeyboardInterrupt that should have ended the loop which calls this at every turn."""
    if _pressed:
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    """Whether signals may be handled otherwise here."""
    import threading

    return threading.current_thread() is threading.main_thread()


class _Watch:
    """The handler of interrupts, and a thread that sends each again which did not get through it.

    The thread is made beforehand, as a handler may interrupt the making of another one, which holds locks.
    """

    def __init__(self) -> None:
        import threading

        self._heard = 0  # interrupts that the handler raised and Python did not drop
        self._main = threading.get_ident()
        self._lock, self._over = threading.Lock(), False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        _watches.append(self)
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    def handle(self, number: int, _: object) -> None:
        """Remember an interrupt and raise it."""
        self._heard += 1
        _pressed.append(number)
        raise KeyboardInterrupt

    def dropped(self) -> None:
        """Take back the last one: it was raised where no exception leaves."""
        self._heard -= 1
        os.write(self._write, bytes([DROPPED]))

    def end(self) -> None:
        """Send nothing any more."""
        with self._lock:
            self._over = True
        _watches.remove(self)
        signal.set_wakeup_fd(self._before)
        os.close(self._write)  # the thread reads the end, and ends

    def _watch(self) -> None:
        seen = 0
        while numbers := os.read(self._read, 1 << 12):  # of all signals that Python handles
            if signal.SIGINT not in numbers and DROPPED not in numbers:
                continue
            time.sleep(AGAIN_S)
            heard = self._heard
            with self._lock:
                ours = signal.getsignal(signal.SIGINT) == self.handle  # a library may handle it for a while
                if heard <= seen and ours and not self._over:  # less where one was dropped meanwhile
                    self._send()
            seen = heard
        os.close(self._read)

    def _send(self) -> None:
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(self._main, signal.SIGINT)  # also wakes a waiting thread
        else:
            signal.raise_signal(signal.SIGINT)

    def forget(self) -> None:
        """In a forked process: the pipe is its parent's, and the thread runs only there."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._write)
        os.close(nothing)


_watches: list[_Watch] = []  # that of the command that runs


def _forget() -> None:
    for watch in _watches:
        watch.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
