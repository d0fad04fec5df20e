"""A driver that is itself a task gives its worker's thread back for the tasks of its passes.

A fit inside ``client.submit`` waits for passes that run on the same workers. If the fit kept its thread, no task would
begin on a worker with one thread, or where there are as many fits as threads. Dask calls this *to secede*.
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
    """Leave the worker's thread pool, if this thread belongs to a worker of the connected cluster.

    Nothing happens outside of a task, in a task of another cluster, or where the task has seceded already, for instance
    in a ``worker_client`` block.

    Raises
    ------
    SchedulerError
        If this thread belongs to a task but not to the pool, so that the task might wait for ever.
    """
    worker = _worker()
    if worker is None or getattr(thread_state, "actor", False) or not connection.has_worker(worker.address):
        yield  # an actor has a thread of its own
        return
    try:
        distributed.secede()
    except KeyError:  # seceded already; whoever did that also rejoins
        yield
        return
    except AttributeError as error:  # a thread that the task has started, or a thread of another executor
        raise SchedulerError(
            "This call is inside a task, and waits for other tasks of the same cluster. It cannot give its place "
            "to them, because this is not a thread of the worker's own pool. Call it in the task's own thread, "
            f"{_ELSE}."
        ) from error
    try:
        yield
    finally:
        with suppress(RuntimeError):  # a closing worker takes no thread back
            distributed.rejoin()


def check_event_loop() -> None:
    """Raise `SchedulerError` in a coroutine of a worker: while the coroutine waits, the worker answers nobody."""
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
