"""Which scheduler a user means."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask
import distributed
from dask.base import get_scheduler
from dask.local import get_sync
from dask.threaded import get as get_threaded

from .remote import Remote
from .scheduler import Local, Planned, Scheduler

_SYNCHRONOUS = {"synchronous", "sync", "single-threaded"}
_THREADED = {"threads", "threading", "threaded"}


def find_scheduler(choice: Any = None, *, in_process: bool = False) -> AbstractContextManager[Scheduler]:
    """Scheduler that a user's choice, or the surroundings, mean.

    Parameters
    ----------
    choice : None, str, distributed.Client or Planned
        None: the client or scheduler in scope, and where there is none the threaded scheduler in this process.
        ``"synchronous"``, ``"threads"``, the address of a scheduler, or a client.
    in_process : bool
        The data are in this process's memory: without an explicit choice they are worked on here, not sent to a
        cluster.

    Returns
    -------
    context manager of Scheduler
        Closes a client that it opened. Entering it raises `SchedulerError` as `Remote` says.

    Raises
    ------
    TypeError, ValueError
        If the choice is none of these.
    """
    if isinstance(choice, distributed.Client):
        return Remote(client=choice)
    if isinstance(choice, Planned):
        return nullcontext(choice)
    if isinstance(choice, str):
        return _of_name(choice)
    if choice is not None:
        raise TypeError(
            f"scheduler={choice!r}; expected None, 'synchronous', 'threads', the address of a scheduler or a "
            f"distributed.Client"
        )
    get = get_scheduler()
    if get is get_sync:
        return nullcontext(Local(get_sync, 1))
    client = getattr(get, "__self__", None)
    if isinstance(client, distributed.Client):
        return nullcontext(_threaded()) if in_process else Remote(client=client)
    if get is None or get is get_threaded:
        return nullcontext(_threaded())
    return nullcontext(Local(get, os.cpu_count() or 1))  # another one of Dask's, or somebody's own


def _of_name(name: str) -> AbstractContextManager[Scheduler]:
    if name in _SYNCHRONOUS:
        return nullcontext(Local(get_sync, 1))
    if name in _THREADED:
        return nullcontext(_threaded())
    if ":" not in name:
        raise ValueError(
            f"scheduler={name!r:.80}; expected 'synchronous', 'threads', or an address such as 'tcp://127.0.0.1:8786'"
        )
    return Remote(name)


def _threaded() -> Scheduler:
    pool = dask.config.get("pool", None)
    n_threads = dask.config.get("num_workers", None) or getattr(pool, "_max_workers", None) or os.cpu_count() or 1
    return Local(get_threaded, n_threads)
