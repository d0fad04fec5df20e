"""Choice of a scheduler, by the user or from the surroundings."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import Any

import dask
import distributed
from dask.base import get_scheduler
from dask.local import get_sync
from dask.system import CPU_COUNT
from dask.threaded import get as get_threaded

from ..tuning import Tuning
from .remote import Remote
from .scheduler import Local, Scheduler

_SYNCHRONOUS = {"synchronous", "sync", "single-threaded"}
_THREADED = {"threads", "threading", "threaded"}


def find_scheduler(
    choice: Any = None, *, in_process: bool = False, tuning: Tuning | None = None
) -> AbstractContextManager[Scheduler]:
    """Find the scheduler that a user's choice, or the surroundings, mean.

    Parameters
    ----------
    choice : None, str, distributed.Client or Scheduler
        None: the client or scheduler in scope, and where there is none the threaded scheduler in this process.
        ``"synchronous"``, ``"threads"``, the address of a scheduler, a client, or a `Scheduler` of any class.
    in_process : bool
        The data are in this process's memory: without an explicit choice they stay here and are not sent to a cluster.
    tuning : Tuning, optional
        None: the record in force in this process.

    Returns
    -------
    context manager of Scheduler
        Entering may raise `SchedulerError`, see `Remote`; leaving closes a client of our own.

    Raises
    ------
    TypeError, ValueError
        If the choice is none of these, or the client in scope is asynchronous.
    """
    if isinstance(choice, distributed.Client):
        return Remote(client=choice, tuning=tuning)
    if isinstance(choice, Scheduler):
        return choice
    if isinstance(choice, str):
        return _of_name(choice, tuning)
    if choice is not None:
        raise TypeError(
            f"scheduler={choice!r}; expected None, 'synchronous', 'threads', the address of a scheduler or a "
            f"distributed.Client"
        )
    try:
        get = get_scheduler()
    except RuntimeError as error:  # Dask's, for an asynchronous client
        if in_process:
            return _threads()
        if "asynchronous" not in str(error):
            raise
        raise TypeError(
            "The distributed.Client in scope is asynchronous, and this call waits for the cluster. Call it in a thread "
            "of its own and by way of another client, for example await asyncio.to_thread(model.fit, X) with "
            "scheduler=client.scheduler.address, or compute in this process with scheduler='threads'."
        ) from error
    if get is get_sync:
        return Local(get_sync, 1)
    client = getattr(get, "__self__", None)
    if isinstance(client, distributed.Client):
        return _threads() if in_process else Remote(client=client, tuning=tuning)
    if get is None or get is get_threaded:
        return _threads()
    return Local(get, CPU_COUNT)  # another scheduler of Dask's, or of the user's


def _of_name(name: str, tuning: Tuning | None) -> AbstractContextManager[Scheduler]:
    if name in _SYNCHRONOUS:
        return Local(get_sync, 1)
    if name in _THREADED:
        return _threads()
    if ":" not in name:
        raise ValueError(
            f"scheduler={name!r:.80}; expected 'synchronous', 'threads', or an address such as 'tcp://127.0.0.1:8786'"
        )
    return Remote(name, tuning=tuning)


@contextmanager
def _threads() -> Iterator[Scheduler]:
    """Threads of this process, for one call: the threads that Dask keeps are gone in a forked child.

    ``pool`` and ``num_workers`` of Dask's configuration are followed.
    """
    if (given := dask.config.get("pool", None)) is not None:
        yield Local(get_threaded, getattr(given, "_max_workers", None) or CPU_COUNT)
        return
    n_threads = dask.config.get("num_workers", None) or CPU_COUNT
    pool = _Threads(n_threads, thread_name_prefix="gmm-pass")
    try:
        yield Local(get_scheduler(scheduler=pool), n_threads)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Threads(ThreadPoolExecutor):
    """Threads in which the caller's context variables are set, as in Dask's."""

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        return super().submit(copy_context().run, function, *arguments, **options)
