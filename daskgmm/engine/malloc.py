"""Reuse of the memory of slabs.

Rows come and go in arrays of megabytes. glibc's malloc learns to keep such memory for the next one: where it has freed
a block that had been mapped it raises the size from which it maps blocks, up to 32 MiB, and keeps twice as much at the
top of its heap. It stops learning where one of the two sizes was set. Dask's nannies set the second, to 64 kB, in the
environment of every worker, so that idle workers give memory back. Then every array is mapped anew, page by page, which
on a virtual machine took a third of the processor time of a pass. So while tasks of ours run malloc is told what it
would have learnt. Then Dask's setting is in force again; and where a worker has little room left of its memory limit,
memory is given back after each task, because Dask would pause it for memory that nobody uses, and wait.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import distributed

from ..data.forks import begin_anew_in_children
from .memory import MOST_KEPT_FREE, target_share

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # that glibc takes where pointers have 64 bits

_SET_BY_DASK = "MALLOC_TRIM_THRESHOLD_"
_SET_BY_OTHERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


_lock = threading.Lock()
_running = 0
"""Tasks of ours in this process."""


@begin_anew_in_children
def _begin_anew() -> None:
    """Reset the count in a forked child, where none of the parent's tasks runs."""
    global _lock, _running
    _lock, _running = threading.Lock(), 0


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Let malloc keep as much memory during the ``with`` block as it would have learnt to keep without settings."""
    library = _glibc()
    if library is None:
        yield
        return
    _count(library, 1)
    try:
        yield
    finally:
        _count(library, -1)
        if (limit := _limit()) and _resident() > target_share() * limit:
            library.malloc_trim(0)


def _count(library: Any, change: int) -> None:
    """Count one task of ours more, or less; the first and the last task set malloc."""
    global _running
    with _lock:
        before, _running = _running > 0, _running + change
        if before != (_running > 0):
            mmap, trim = (_LARGEST_MMAP_THRESHOLD, MOST_KEPT_FREE) if _running else _dasks()
            library.mallopt(_M_MMAP_THRESHOLD, mmap)
            library.mallopt(_M_TRIM_THRESHOLD, trim)


def _dasks() -> tuple[int, int]:
    """Earlier settings: glibc's own size of blocks to be mapped, and Dask's size of memory to be kept."""
    return 128 << 10, int(_environment()[_SET_BY_DASK])


@cache
def _glibc() -> Any:
    """The C library, if Dask's setting is in force in this process, and no other; else None."""
    given = _environment()
    if not given.get(_SET_BY_DASK, "").isdecimal() or any(name in given for name in _SET_BY_OTHERS):
        return None
    if platform.libc_ver()[0] != "glibc" or ctypes.sizeof(ctypes.c_void_p) < 8:
        return None
    return ctypes.CDLL(None)


@cache
def _environment() -> dict[str, str]:
    """Environment at the start of this process, which malloc has read; nannies also change their own later."""
    try:
        with open("/proc/self/environ", encoding="utf-8", errors="replace") as file:
            return dict(entry.split("=", 1) for entry in file.read().split("\0") if "=" in entry)
    except OSError:
        return {}


def _limit() -> int:
    """Bytes that the worker in which this task runs may use; 0 where there is no limit, or no worker."""
    try:
        return int(distributed.get_worker().memory_manager.memory_limit or 0)
    except ValueError:
        return 0


def _resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
