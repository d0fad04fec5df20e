"""Where a pass runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import dask
import distributed
from dask.base import get_scheduler
from dask.highlevelgraph import HighLevelGraph
from dask.local import get_sync
from dask.threaded import get as get_threaded
from distributed.scheduler import KilledWorker

from ..data.addresses import Secrets, without_secrets
from ..errors import DaskGMMError, SchedulerError
from .config import patience
from .memory import Worker

_SYNCHRONOUS = {"synchronous", "sync", "single-threaded"}
_THREADED = {"threads", "threading", "threaded"}

# How long a scheduler may take to answer, and a cluster to bring its first worker (batch systems let them queue).
_ANSWER, _FIRST_WORKER = "10s", "60s"
_LOOK = 2.0  # seconds between two looks at the workers of a running pass


@dataclass(frozen=True)
class Scheduler:
    """Something that computes the value of a key of a task graph."""

    get: Callable[..., Any]
    """``get(graph, key)``, as every Dask scheduler has it."""

    n_threads: int
    """Tasks that run at the same time."""

    client: distributed.Client | None = None
    """The distributed client behind `get`, if it is one."""

    def workers(self) -> list[Worker]:
        """Worker processes of the cluster; none where the work is done in this process."""
        return [] if self.client is None else [Worker(*told) for told in self.client.run_on_scheduler(_workers)]

    def compute(self, graph: Any, key: Any, **options: Any) -> Any:
        """Value of ``key``; with the arguments that Dask gives to a scheduler.

        Raises
        ------
        SchedulerError
            If the cluster behind it went away, or its workers died of the work.
        """
        if self.client is None:
            return self.get(graph, key, **options)
        if isinstance(graph, dict):
            # The client names a plain dict after its content: it would hash every task, rows and parameters included,
            # in each pass, and refuse what cannot be hashed.
            graph = HighLevelGraph.from_collections(f"gmm-{uuid.uuid4().hex}", graph)
        try:
            return _gather(self.client, self.get(graph, key, **{**options, "sync": False}))
        except DaskGMMError:
            raise
        except KilledWorker as error:
            raise SchedulerError(
                f"The workers of {_address(self.client)} died while they worked on one batch ({error}). Most often "
                "their memory does not suffice: give them more, use fewer threads for each worker, or store the data "
                "in smaller chunks."
            ) from error
        except (asyncio.CancelledError, concurrent.futures.CancelledError, OSError) as error:
            lost = not isinstance(error, OSError) or isinstance(error, distributed.comm.CommClosedError)
            if not lost and self.client.status == "running":
                raise  # a task's own, such as a file of the user's that is not there
            raise SchedulerError(
                f"The Dask scheduler {_address(self.client)} went away during a pass ({type(error).__name__}: "
                f"{error}). Check that it runs and fit again."
            ) from error


def _gather(client: distributed.Client, promised: Any) -> Any:
    """Values of futures, unless no worker has been at work for as long as one may wait for the first."""
    limit, idle_since = patience(_FIRST_WORKER), None
    for future in distributed.client.futures_of(promised):
        finished = _when_finished(future)
        while not finished.wait(_LOOK):
            now = time.monotonic()
            idle_since = None if _works(client) else idle_since or now
            if idle_since is not None and now - idle_since > limit:
                client.cancel(promised)
                raise SchedulerError(
                    f"No worker of {_address(client)} has been at work for {limit:g} s: they are gone, or paused "
                    "because Python and its packages alone fill most of their memory limit (about 240 MB, 400 MB with "
                    "numba). Start workers, or raise their memory limit."
                )
    return client.gather(promised)


def _when_finished(future: distributed.Future) -> threading.Event:
    finished = threading.Event()
    future.add_done_callback(lambda _: finished.set())
    return finished


def _works(client: distributed.Client) -> bool:
    """Whether any worker is running, rather than paused or gone."""
    return "running" in client.run_on_scheduler(_worker_states)


def _worker_states(dask_scheduler: Any = None) -> list[str]:
    return [worker.status.name for worker in dask_scheduler.workers.values()]


def _workers(dask_scheduler: Any = None) -> list[tuple[str, int, int]]:
    """Address, threads and memory limit of each worker."""
    return [
        (worker.address, worker.nthreads, int(worker.memory_limit or 0)) for worker in dask_scheduler.workers.values()
    ]


def find_scheduler(choice: Any = None, *, in_process: bool = False) -> AbstractContextManager[Scheduler]:
    """Scheduler that a user's choice, or the surroundings, mean.

    Parameters
    ----------
    choice : None, str or distributed.Client
        None: the client or scheduler in scope, and where there is none the threaded scheduler in this process.
        ``"synchronous"``, ``"threads"``, the address of a scheduler, or a client.
    in_process : bool
        The data are in this process's memory: without an explicit choice they are worked on here, not sent to a
        cluster.

    Returns
    -------
    context manager of Scheduler
        Closes a client that it opened.

    Raises
    ------
    SchedulerError
        If a scheduler does not answer within 10 s or has no workers within 60 s; the configuration value
        ``daskgmm.timeout`` replaces both.
    TypeError, ValueError
        If the choice is none of these.
    """
    if isinstance(choice, distributed.Client):
        return nullcontext(_of_client(choice))
    if isinstance(choice, str):
        return _of_name(choice)
    if choice is not None:
        raise TypeError(
            f"scheduler={choice!r}; expected None, 'synchronous', 'threads', the address of a scheduler or a "
            f"distributed.Client"
        )
    get = get_scheduler()
    if get is get_sync:
        return nullcontext(Scheduler(get_sync, 1))
    client = getattr(get, "__self__", None)
    if isinstance(client, distributed.Client):
        return nullcontext(_threaded() if in_process else _of_client(client))
    if get is None or get is get_threaded:
        return nullcontext(_threaded())
    return nullcontext(Scheduler(get, os.cpu_count() or 1))  # another one of Dask's, or somebody's own


def _of_name(name: str) -> AbstractContextManager[Scheduler]:
    if name in _SYNCHRONOUS:
        return nullcontext(Scheduler(get_sync, 1))
    if name in _THREADED:
        return nullcontext(_threaded())
    if ":" not in name:
        raise ValueError(
            f"scheduler={name!r:.80}; expected 'synchronous', 'threads', or an address such as 'tcp://127.0.0.1:8786'"
        )
    return _Connection(name)


class _Connection(AbstractContextManager[Scheduler]):
    """A client of our own for the time of one fit."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> Scheduler:
        limit = patience(_ANSWER)
        try:
            _greet(self.address, limit)
            self.client = distributed.Client(self.address, set_as_default=False, timeout=limit)
        except (OSError, ValueError, TypeError, ImportError) as error:  # TypeError: a protocol that is not set up
            secrets = Secrets(self.address)
            raise SchedulerError(
                f"scheduler={without_secrets(self.address)!r:.200} does not answer ({type(error).__name__}: "
                f"{secrets.hide(str(error)):.200}). Check the address and that `dask scheduler` runs there and can be "
                "reached from here."
            ) from secrets.cause(error)
        try:
            return _of_client(self.client)
        except BaseException:
            self.client.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.client.close()


def _greet(address: str, limit: float) -> None:
    """Exchange greetings: a client's own timeout ends with the connection, and it waits for the answer for ever."""

    async def greet() -> None:
        arguments = distributed.Security().get_connection_args("client")
        comm = await asyncio.wait_for(distributed.comm.connect(address, timeout=limit, **arguments), limit)
        comm.abort()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # in a thread, because this one may have a running loop
        pool.submit(asyncio.run, greet()).result()


def _of_client(client: distributed.Client) -> Scheduler:
    if client.asynchronous:
        raise TypeError("scheduler is an asynchronous distributed.Client; fits run synchronously: use Client(address)")
    if client.status != "running":
        raise SchedulerError(f"The distributed.Client in use is {client.status}. Connect a new one.")
    limit = patience(_FIRST_WORKER)
    try:
        client.wait_for_workers(1, timeout=limit)
        n_threads = sum(client.nthreads().values())
    except (TimeoutError, OSError) as error:
        raise SchedulerError(
            f"The Dask scheduler {_address(client)} has no workers after {limit:g} s. Start some with "
            f"`dask worker {_address(client)}`, or wait longer for them: "
            f"dask.config.set({{'daskgmm.timeout': '10min'}})."
        ) from error
    return Scheduler(client.get, n_threads, client)


def _threaded() -> Scheduler:
    pool = dask.config.get("pool", None)
    n_threads = dask.config.get("num_workers", None) or getattr(pool, "_max_workers", None) or os.cpu_count() or 1
    return Scheduler(get_threaded, n_threads)


def _address(client: distributed.Client) -> str:
    scheduler = client.scheduler
    return scheduler.address if scheduler is not None else "(disconnected)"
