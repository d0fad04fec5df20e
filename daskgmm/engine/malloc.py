"""Memory that slabs use again.

Rows come and go in arrays of megabytes. glibc's malloc learns to keep such memory for the next one: where it has freed
a block that had been mapped it raises the size from which it maps blocks, up to 32 MiB, and keeps twice as much at the
top of its heap. It stops learning where one of the two sizes was set. Dask's nannies set the second, to 64 kB, in the
environment of every worker, so that idle workers give memory back. Then every array is mapped anew, page by page, which
on a virtual machine took a third of the processor time of a pass.
"""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # that glibc takes where pointers have 64 bits

_SET_BY_DASK = "MALLOC_TRIM_THRESHOLD_"
_SET_BY_OTHERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def reuse_memory() -> None:
    """Have malloc keep, in this process, what it would have learnt to keep if nobody had set anything."""
    if _SET_BY_DASK not in os.environ or any(name in os.environ for name in _SET_BY_OTHERS):
        return
    if platform.libc_ver()[0] != "glibc" or ctypes.sizeof(ctypes.c_void_p) < 8:
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
