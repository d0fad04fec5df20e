"""One BLAS thread for each task.

Several tasks share a processor already, and a product's last bits depend on the number of threads it is split among.
The limit is a property of the process: setting it in every task would race, so it is set around a whole fit in the
driver, and once for good in a worker process, where only tasks run. That of OpenMP, which scikit-learn's k-means uses,
belongs to a thread: it is set in each that fits.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import OpenBLASController, threadpool_limits

from ..data.forks import begin_anew_in_children

_name = uuid.uuid4().hex
_lock = threading.Lock()
_holders = 0
_limits: Any = None
_is_worker = False


def this_process() -> str:
    """Name of this process, by which a task can tell whether it runs in its driver's."""
    return _name


@begin_anew_in_children
def _begin_anew() -> None:
    """A forked child is another process than its parent, one of whose threads may have held the lock."""
    global _name, _lock
    _name, _lock = uuid.uuid4().hex, threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS and OpenMP at one thread in this process; nested and concurrent uses share one limit."""
    _acquire()
    try:
        with threadpool_limits(1, user_api="openmp"):
            yield
    finally:
        _release()


def limit_worker(driver: str) -> None:
    """Hold BLAS at one thread from now on, unless this is the driver's own process, which holds it itself.

    A task may be the driver of others, and end before them: its own hold does not suffice for them.
    """
    global _is_worker
    if driver != this_process() and not _is_worker:
        _acquire()
        _is_worker = True  # no sooner, because others would not wait for it; a second hold does no harm


def _acquire() -> None:
    global _holders, _limits
    with _lock:
        if _holders == 0:
            _take_control()
            _limits = threadpool_limits(1, user_api="blas")
        _holders += 1


def _release() -> None:
    global _holders, _limits
    with _lock:
        _holders -= 1
        if _holders == 0:
            _take_control()
            _limits.restore_original_limits()
            _limits = None
            _take_control()


def _take_control() -> None:
    """Let this thread set OpenBLAS's number of threads, or whoever comes next.

    From threadpoolctl 3.8 on only the thread that did so first can, as long as it lives; others are ignored without a
    word, and their sums would be divided.
    """
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
