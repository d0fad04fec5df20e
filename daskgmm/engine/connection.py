"""A connection to the scheduler of a cluster, which may go away and come back.

Every question and every wait has a time limit. When the scheduler goes away, a client of our own looks for a scheduler
at the same address; the tasks of the first scheduler are lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import distributed

from ..config import timeout_seconds
from ..data.addresses import Secrets, without_secrets
from ..errors import DaskGMMError, SchedulerError
from .encryption import advice
from .memory import Worker

# Time limits: for a scheduler's first answer; for its return; for silence of a scheduler that has answered before; for
# the first worker of a cluster (batch systems let workers queue).
ANSWER, _RETURN, SILENCE, FIRST_WORKER = "10s", "60s", "5min", "60s"
_SHORT = 0.1  # seconds between two checks of a short wait

_log = logging.getLogger("daskgmm")


class Lost(Exception):
    """The connection to the scheduler is gone, or it does not answer."""


class Connection:
    """A client of a scheduler, replaced by another one when the scheduler comes back.

    Parameters
    ----------
    address : str
        Address of the scheduler for a client of our own; empty where the user gives a client.
    given : distributed.Client, optional
        The user's client, which stays open. When its scheduler goes away, a client of our own with the same security
        replaces it.
    """

    def __init__(self, address: str, given: distributed.Client | None) -> None:
        self._address, self._given = address, given
        self._own: list[distributed.Client] = []  # the last of them is in use
        self._security = None if given is None else given.security
        self._n_threads = 1

    def open(self) -> None:
        """Connect, and wait for a worker.

        Raises
        ------
        SchedulerError
            If the connection or the worker takes too long.
        TypeError
            If the user's client is asynchronous.
        """
        if self._given is None:
            self._own.append(self._first_client())
        else:
            self._address = _address_of(self._given)
            _check_event_loop(self._given)
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all clients of our own."""
        # Only here: a client that lost its scheduler looks for it by itself, and would complain in the log.
        while self._own:
            _close(self._own.pop())

    @property
    def client(self) -> distributed.Client:
        """Client in use."""
        return self._own[-1] if self._own else self._given

    def _first_client(self) -> distributed.Client:
        try:
            return _connect(self._address, None, timeout_seconds(ANSWER))
        except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:  # not set up, or barred
            secrets = Secrets(self._address)
            raise SchedulerError(
                f"scheduler={without_secrets(self._address)!r:.200} does not answer ({type(error).__name__}: "
                f"{secrets.hide(str(error)):.200}). {secrets.hide(advice(self._address, error))}"
            ) from secrets.cause(error)

    def _settle(self) -> None:
        """Wait for a worker, and for the scheduler if it went away just now."""
        try:
            self._await_worker()
        except Lost as lost:
            self.reconnect(lost)

    def _await_worker(self) -> None:
        limit = timeout_seconds(FIRST_WORKER)
        if self.at_work(limit):
            return
        # Some clusters start workers only when there is a task for them.
        with self._demand():
            deadline = time.monotonic() + limit
            while not self.at_work(limit):
                if time.monotonic() > deadline:
                    raise SchedulerError(
                        f"The Dask scheduler {self} has no workers after {limit:g} s{self.expected()}. Start some with "
                        f"`dask worker {self}`, or wait longer for them: "
                        "dask.config.set({'daskgmm.timeout': '10min'})."
                    )
                time.sleep(_SHORT)

    @contextmanager
    def _demand(self) -> Iterator[None]:
        """Keep a task in the scheduler that any worker could do: clusters that scale with the work start a worker."""
        client = self.client
        with classified(client):
            future = client.submit(_nothing, key=f"gmm-await-{uuid.uuid4().hex}", pure=False)
        try:
            yield
        finally:
            future.release()

    def expected(self) -> str:
        """Text for a message about missing workers: how many the user's cluster has asked for; else empty."""
        planned = len(getattr(getattr(self._given, "cluster", None), "plan", ()))
        return f", though its cluster has asked for {planned}, which may be queued or starting" if planned else ""

    def reconnect(self, lost: BaseException) -> None:
        """Replace the client by a new client when a scheduler answers at the same address and has workers.

        Raises
        ------
        SchedulerError
            If no scheduler with workers answers in time.
        """
        limit = timeout_seconds(_RETURN)
        deadline = time.monotonic() + limit
        _log.warning("The Dask scheduler %s went away (%s): it is waited for, %g s at most", self, lost, limit)
        lost_clients = len(self._own)
        while len(self._own) == lost_clients:
            self._check_cluster()
            try:
                self._own.append(_connect(self._address, self._security, max(_SHORT, deadline - time.monotonic())))
            except (OSError, ValueError, TypeError, ImportError) as error:
                if time.monotonic() > deadline:
                    raise self._gone(f"did not come back within {limit:g} s", error) from error
                time.sleep(_SHORT)
        try:
            self._await_worker()
        except Lost as error:
            raise self._gone("went away once more while its workers were waited for", error) from error
        _log.warning("The Dask scheduler %s is back, with workers", self)

    def _check_cluster(self) -> None:
        """Raise if the user's cluster was shut down: nothing will come back."""
        cluster = getattr(self._given, "cluster", None)
        if cluster is not None and getattr(cluster.status, "name", "") in ("closing", "closed", "failed"):
            raise self._gone("was shut down with its cluster", None)

    def _gone(self, what: str, error: BaseException | None) -> SchedulerError:
        reason = "" if error is None else f" ({type(error).__name__}: {Secrets(self._address).hide(str(error)):.200})"
        return SchedulerError(
            f"The Dask scheduler {self} went away, and {what}{reason}. Check that it runs, and fit again; one that "
            "takes longer to come back is waited for with dask.config.set({'daskgmm.timeout': '10min'})."
        )

    def __str__(self) -> str:
        return without_secrets(self._address)

    def at_work(self, limit: float | None = None) -> Mapping[str, int]:
        """Threads of each worker that is neither paused nor about to go."""
        # A short answer, however many workers there are, because the question comes in the midst of a pass.
        running: Mapping[str, int] = self.ask(lambda scheduler: scheduler.ncores_running(), limit)
        return running

    def has_worker(self, address: str) -> bool:
        """Test for a worker of that address in the cluster."""
        return address in self.ask(lambda scheduler: scheduler.ncores(workers=[address]))

    def n_threads(self, limit: float | None = None) -> int:
        """Threads of all workers that are at work now; where no worker is, of the workers that were at work last."""
        self._n_threads = sum(self.at_work(limit).values()) or self._n_threads
        return self._n_threads

    def knows(self, *keys: Any) -> bool:
        """Test for tasks of all these names on the scheduler."""
        return None not in self.ask(lambda scheduler: scheduler.get_task_status(keys=keys)).values()

    def is_forgotten(self) -> bool:
        """Test for a scheduler that has removed the client, even if the client has not noticed."""
        actions = [event.get("action") for event in self.events(self.client.id) if isinstance(event, dict)]
        return [action for action in actions if action in ("add-client", "remove-client")][-1:] == ["remove-client"]

    def workers(self) -> list[Worker]:
        """All workers of the cluster."""
        told = self.ask(lambda scheduler: scheduler.identity())["workers"]
        return [
            Worker(address, worker["nthreads"], int(worker["memory_limit"] or 0)) for address, worker in told.items()
        ]

    def events(self, topic: str, limit: float | None = None) -> list[Any]:
        """Events logged under a topic, the latest last; of each topic Dask keeps the last 1000."""
        return [event for _, event in self.ask(lambda scheduler: scheduler.events(topic=topic), limit)]

    def ask(self, question: Callable[[Any], Awaitable[Any]], limit: float | None = None) -> Any:
        """Return the scheduler's answer; raise `Lost` if the scheduler does not answer.

        Parameters
        ----------
        question : callable
            Called with the scheduler's operations. Functions of our own, which Dask would run on the scheduler as well,
            would leave a line in its log each time.
        limit : float, optional
            Seconds that the answer may take.
        """
        client = self.client

        async def ask() -> Any:
            return await question(client.scheduler)

        if client.status != "running":
            raise Lost(f"the client is {client.status}")
        limit = timeout_seconds(SILENCE) if limit is None else max(limit, _SHORT)
        try:
            return client.sync(ask, callback_timeout=limit)
        except TimeoutError as error:
            raise Lost(f"it has not answered for {limit:g} s") from error
        except Exception as error:
            if isinstance(error, OSError) or client.status != "running":
                raise Lost(f"{type(error).__name__}: {error}") from error
            raise


@contextmanager
def classified(client: distributed.Client, futures: Iterable[distributed.Future] = ()) -> Iterator[None]:
    """Tell errors of the connection from errors of tasks, such as a missing file of the user's."""
    try:
        yield
    except (Lost, SchedulerError):
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (client.id,):
            raise Lost("it does not know any more who asks") from error
        if isinstance(error.__cause__, DaskGMMError):
            raise error.__cause__ from None  # the reason why data cannot be pickled, below Dask's error
        if any(future.status == "error" for future in futures):
            raise
        if client.status == "running" and not isinstance(error, OSError):
            raise
        raise Lost(f"{type(error).__name__}: {error}") from error


def _connect(address: str, security: Any, limit: float) -> distributed.Client:
    _greet(address, security, limit)
    return distributed.Client(address, security=security, set_as_default=False, timeout=limit)


def _greet(address: str, security: Any, limit: float) -> None:
    """Exchange greetings within a time limit: a client limits the connection alone, and may wait for ever."""

    async def greet() -> None:
        arguments = (security or distributed.Security()).get_connection_args("client")
        comm = await asyncio.wait_for(distributed.comm.connect(address, timeout=limit, **arguments), limit)
        comm.abort()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a new thread, because this thread may have a running loop
        pool.submit(asyncio.run, greet()).result()


def _close(client: distributed.Client) -> None:
    try:
        client.close(timeout=timeout_seconds(ANSWER))
    except Exception as error:  # nothing depends on the client any more
        _log.warning("A client of %s could not be closed in time (%s)", client.id, error)


def _address_of(client: distributed.Client) -> str:
    """Address of the scheduler that a client is connected to, or was connected to a moment ago."""
    if client.asynchronous:
        raise TypeError("scheduler is an asynchronous distributed.Client; fits run synchronously: use Client(address)")
    if client.status not in ("running", "connecting"):
        raise SchedulerError(f"The distributed.Client in use is {client.status}. Connect a new one.")
    return str(client.scheduler.address)


def _nothing() -> None:
    """Do nothing, on a worker."""


def _check_event_loop(client: distributed.Client) -> None:
    """Raise unless the client's event loop runs: a forked child has a copy of the loop that nobody runs."""
    runs = threading.Event()
    client.loop.add_callback(runs.set)
    if not runs.wait(timeout_seconds(ANSWER)):
        raise SchedulerError(
            "The event loop of the distributed.Client in use does not run in this process, as in one that was forked "
            "from the client's. Make a client in each process (scheduler=address does), start processes with "
            "multiprocessing's 'spawn' or 'forkserver', or compute in this one with scheduler='threads'."
        )
