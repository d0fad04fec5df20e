"""One BLAS thread for each task.

Several tasks share a processor already, and the last bits of a product depend on the number of threads. The limit is a
property of the process: setting the limit in every task would race, so it is set around a whole fit in the driver, and
once for good in a worker process, where only tasks run. The limit of OpenMP, which scikit-learn's k-means uses, belongs
to a thread, and is set in each thread that fits.

Finding the libraries takes longer than predicting a row; setting their limits takes a microsecond. So the search runs
once, and again after an import, because a library comes with a module.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import LibController, OpenBLASController, ThreadpoolController

from ..data.forks import begin_anew_in_children

Limits = list[tuple[LibController, int]]
"""Libraries, and their earlier numbers of threads."""

_name = uuid.uuid4().hex
_lock = threading.Lock()
_holders = 0
_limits: Limits = []
_is_worker = False


def this_process() -> str:
    """Name of this process; a task compares the name with its driver's."""
    return _name


@begin_anew_in_children
def _begin_anew() -> None:
    """Give a forked child a name of its own, and a free lock: a thread of the parent may have held the lock."""
    global _name, _lock
    _name, _lock = uuid.uuid4().hex, threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS and OpenMP at one thread in this process; nested and concurrent uses share one limit."""
    _acquire()
    try:
        before = _limit("openmp")
        try:
            yield
        finally:
            _restore(before)
    finally:
        _release()


def limit_worker(driver: str) -> None:
    """Hold BLAS at one thread from now on, unless this is the driver's own process, which has its own hold.

    A task may be the driver of other tasks and end before them, so its own hold does not suffice.
    """
    global _is_worker
    if driver != this_process() and not _is_worker:
        _acquire()
        _is_worker = True  # only now: other threads go by it, and need the limit in force; a second hold does no harm


def _acquire() -> None:
    global _holders, _limits
    with _lock:
        _take_control()
        before = _limit("blas")  # also within another hold: somebody else may have set another number since
        if _holders == 0:
            _limits = before
        _holders += 1


def _release() -> None:
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            _take_control()
            _restore(_limits)
            _take_control()


def _limit(user_api: str) -> Limits:
    """Set all libraries of that kind to one thread; return their earlier numbers of threads."""
    found = _libraries(len(sys.modules)).get(user_api, [])
    before = [(library, n_threads) for library in found if (n_threads := library.get_num_threads()) is not None]
    for library in found:
        library.set_num_threads(1)
    return before


def _restore(limits: Limits) -> None:
    for library, n_threads in limits:
        library.set_num_threads(n_threads)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> dict[str, list[LibController]]:
    """Libraries with a thread pool in this process, by kind; the number of imported modules is the cache's key."""
    found: dict[str, list[LibController]] = {}
    for library in ThreadpoolController().lib_controllers:
        found.setdefault(library.user_api, []).append(library)
    return found


def _take_control() -> None:
    """Let this thread, or the next one, set OpenBLAS's number of threads.

    From threadpoolctl 3.8 on only the first thread that sets the number can change it, as long as that thread lives.
    Calls of other threads are silently ignored, and their sums would be divided.
    """
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
