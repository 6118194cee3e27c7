"""Keep freed memory in the process, or return it to the system.

Keeping it excludes page faults of heap growth from operator times; returning it limits the peak memory of
reading a large file to its tables.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Make glibc never return freed memory to the system; False without glibc.

    By default a large result of a CPU operator may be allocated on fresh pages, and page faults sometimes
    cost more than a norm or an activation itself. Servers avoid this with other allocators.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def return_freed_memory() -> None:
    """Return freed pages that Arrow's pool and glibc's heaps keep for reuse."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
