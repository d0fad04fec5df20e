"""A driver that is itself a task: its worker's thread is for the tasks that it waits for.

A fit inside ``client.submit`` waits for passes that run on the same workers. If it kept its thread, those of a worker
with one thread, or of as many fits as there are threads, would never begin. Dask calls giving it back to secede.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import distributed
from distributed.worker import thread_state

from ..errors import SchedulerError
from .connection import Connection


@contextmanager
def thread_given_back(connection: Connection) -> Iterator[None]:
    """Leave the thread pool of the worker that this thread belongs to, if its cluster is the one that is waited for.

    Nothing happens outside of a task, in a task of another cluster, or where the task has seceded already, for instance
    in a ``worker_client`` block.

    Raises
    ------
    SchedulerError
        If this thread belongs to a task and not to that pool, so that it might wait for ever.
    """
    worker = _worker()
    if worker is None or getattr(thread_state, "actor", False) or not connection.has_worker(worker.address):
        yield  # nobody else waits for an actor's thread
        return
    try:
        distributed.secede()
    except KeyError:  # it has seceded already, and whoever did that comes back
        yield
        return
    except AttributeError as error:  # a thread that the task has started, or one of another executor
        raise SchedulerError(
            "This call would wait for tasks of the cluster that it is in a task of, and the task cannot give its place "
            f"to them: this is not a thread of the worker's own pool. Call it in the task's own thread, {_ELSE}."
        ) from error
    try:
        yield
    finally:
        with suppress(RuntimeError):  # a worker that is being closed takes nobody back
            distributed.rejoin()


def check_event_loop() -> None:
    """Raise `SchedulerError` in a coroutine of a worker: while it waits, its worker answers nobody."""
    worker = _worker()
    if worker is not None and _running_loop() is worker.loop.asyncio_loop:
        raise SchedulerError(
            "This coroutine would hold up its own worker while it waits for the cluster. Submit a function (def "
            f"instead of async def), {_ELSE}."
        )


_ELSE = "or compute inside the task with scheduler='threads'"


def _worker() -> Any:
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
