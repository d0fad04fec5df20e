"""Memory that slabs use again.

Rows come and go in arrays of megabytes. glibc's malloc learns to keep such memory for the next one: where it has freed
a block that had been mapped it raises the size from which it maps blocks, up to 32 MiB, and keeps twice as much at the
top of its heap. It stops learning where one of the two sizes was set. Dask's nannies set the second, to 64 kB, in the
environment of every worker, so that idle workers give memory back. Then every array is mapped anew, page by page, which
on a virtual machine took a third of the processor time of a pass. So in workers that compute for us malloc is told what
it would have learnt; and where a worker has little room left of its memory limit, memory is given back after each task,
so that Dask does not pause it for memory that nobody uses.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from typing import Any

import dask
import distributed

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # that glibc takes where pointers have 64 bits

_SET_BY_DASK = "MALLOC_TRIM_THRESHOLD_"
_SET_BY_OTHERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def reuse_memory() -> None:
    """Have malloc keep, in this process, what it would have learnt to keep if nobody had set anything."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)


def give_back_memory() -> None:
    """At the end of a task: return to the system what malloc has kept, where the worker has little room."""
    library = _glibc()
    if library is not None and (limit := _limit()) and _resident() > _full() * limit:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library, if Dask's setting is in force in this process, and no other; else None."""
    if _SET_BY_DASK not in os.environ or any(name in os.environ for name in _SET_BY_OTHERS):
        return None
    if platform.libc_ver()[0] != "glibc" or ctypes.sizeof(ctypes.c_void_p) < 8:
        return None
    return ctypes.CDLL(None)


def _limit() -> int:
    """Bytes that the worker in which this task runs may use; 0 where there is no limit, or no worker."""
    try:
        return int(distributed.get_worker().memory_manager.memory_limit or 0)
    except ValueError:
        return 0


def _full() -> float:
    """Share of its limit at which Dask begins to free a worker's memory."""
    return float(dask.config.get("distributed.worker.memory.target", 0.6) or 0.6)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
