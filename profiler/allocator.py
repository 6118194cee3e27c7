"""What becomes of freed memory: kept with the process, or returned to the system.

Kept, the heap's growth is not timed as an operator's work; returned, a large file takes what its tables take.
"""

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


def return_freed_memory() -> None:
    """Give back the pages of what was freed: Arrow's pool, and the heaps of glibc, keep them for later."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
