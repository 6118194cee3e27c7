"""Keep freed memory with the process, so that the heap's growth is not timed as an operator's work."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Ask glibc never to return freed memory to the system; False where this is not glibc.

    By default each large result of a CPU operator may come from fresh pages, whose first touch costs
    more than a norm or an activation itself, now and then. Servers avoid it with other allocators.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))
