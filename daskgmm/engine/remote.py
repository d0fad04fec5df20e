"""A distributed scheduler: every wait has a time limit, and work that is lost with a process is done again.

Dask itself repeats the work that was lost with a worker, and waits for ever where there is no worker. With the
scheduler everything is lost: the tasks of every client, and the workers, which end themselves. A pass depends on
nothing but the data and the parameters, so the pass begins anew, through a new client, when a scheduler answers at the
same address.

A scheduler cannot tell the task that ended its process from other tasks on that worker. Each task that Dask gives up
for that reason is tried once more alone: a task that ends a process even then is to blame, and the others were there by
chance.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import distributed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from distributed.scheduler import KilledWorker

from ..config import timeout_seconds
from ..data.task_graphs import upstream
from ..errors import SchedulerError
from ..tuning import Tuning, current
from .connection import ANSWER, FIRST_WORKER, SILENCE, Connection, Lost, classified
from .holdings import Holdings
from .memory import Worker
from .placement import Leases
from .report import Report, hearing, listening
from .scheduler import ClusterScheduler, Work
from .seceding import check_event_loop, thread_given_back

# Most tasks that are tried alone, and that a message names.
_MOST_SUSPECTS, _MOST_NAMED = 32, 3

Answer = TypeVar("Answer")

_log = logging.getLogger("daskgmm")


class _Idle(Exception):
    """No worker has been at work for the time that the first worker may take."""

    def __init__(self, limit: float) -> None:
        self.limit = limit


class _LostInputs(Exception):
    """A value outside of the graph, on which the graph depends, is gone."""


class Remote(ClusterScheduler):
    """The scheduler of a cluster.

    Parameters
    ----------
    address : str, optional
        Address of the scheduler for a client of our own, which is closed at the end.
    client : distributed.Client, optional
        The user's client, which stays open. When its scheduler goes away, a client of our own with the same security
        replaces it.
    tuning : Tuning, optional
    """

    def __init__(
        self, address: str = "", client: distributed.Client | None = None, tuning: Tuning | None = None
    ) -> None:
        self._tuning = tuning or current()
        self._connection = Connection(address, client)
        self._resources, self._holdings = ExitStack(), Holdings(self._tuning.message_bytes)
        self._leases = Leases()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._hearing = ExitStack()
        self._is_listening = False

    def __enter__(self) -> Remote:
        """Connect, and wait for a worker.

        Raises
        ------
        SchedulerError
            If the scheduler does not answer within 10 s or has no workers within 60 s; the configuration value
            ``daskgmm.timeout`` replaces both.
        """
        check_event_loop()
        with ExitStack() as stack:
            self._connection.open()
            stack.callback(self._connection.close)
            stack.callback(self._holdings.release)
            stack.callback(self._leases.release)
            stack.enter_context(thread_given_back(self._connection))
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._resources.close()

    def _reconnect(self, lost: BaseException) -> None:
        self._connection.reconnect(lost)
        self._hear()

    def __str__(self) -> str:
        return str(self._connection)

    @property
    def n_threads(self) -> int:
        """Threads of the workers that are at work now: a cluster may grow and shrink between passes."""
        return self._answer(self._connection.n_threads)

    def workers(self) -> list[Worker]:
        return self._answer(self._connection.workers)

    def _answer(self, question: Callable[[], Answer]) -> Answer:
        """Ask the scheduler, and its successor if the scheduler went away."""
        try:
            return question()
        except Lost as lost:
            self._reconnect(lost)
            return question()

    def events(self, topic: str, receiver: str) -> list[Any]:
        with suppress(Lost):  # the events went with the scheduler, and no result depends on them
            told = self._connection.events(topic, timeout_seconds(ANSWER))
            return [event for event in told if event["receiver"] == receiver]
        return []

    # ---- computing

    def hold(self, tasks: Mapping[Any, Any]) -> None:
        self._holdings.add(tasks)

    def open_caches(self, name: str, n_bytes: int) -> None:
        self._leases.add(name, n_bytes)

    def run(self, work: Work, **options: Any) -> Any:
        interruptions = 0
        while True:
            graph, key = work.build()
            try:
                return self._attempt(graph, key, options)
            except (Lost, KilledWorker) as error:
                interruption: Exception = error
            except _Idle as idle:
                raise self._no_worker(idle, graph, work) from None
            interruptions += 1
            if interruptions > self._tuning.most_replays:
                raise self._given_up(interruption, work) from interruption
            try:
                if isinstance(interruption, KilledWorker):
                    self._try_alone(graph, interruption, work)
                else:
                    self._reconnect(interruption)
            except Lost as lost:
                self._reconnect(lost)

    def _attempt(self, graph: Any, key: Any, options: Any = {}) -> Any:  # noqa: B006  # never changed
        if isinstance(graph, dict):
            # The client would name a plain dict after its content: hash every task, rows and parameters included, in
            # each pass, and refuse tasks that cannot be hashed.
            graph = HighLevelGraph.from_collections(f"gmm-{uuid.uuid4().hex}", graph)
        client = self._connection.client
        with classified(client):
            if client.status != "running":
                raise Lost(f"the client is {client.status}")
            self._holdings.submit(client)
            self._leases.submit(client, self._connection.at_work, self._tuning.look_seconds)
            promised = client.get(graph, key, **{**options, "sync": False})
        futures = list(distributed.client.futures_of(promised))
        result = asyncio.run_coroutine_threadsafe(_gathered(client, promised), client.loop.asyncio_loop)
        try:
            self._await(result, futures[0].key)
            with classified(client, futures):
                return result.result()
        except _LostInputs as lost:
            raise self._lost_inputs(lost) from lost.__cause__
        finally:
            # This ends the coroutine, too. Cancelling the coroutine would leave errors that nobody reads.
            for future in futures:
                future.release()  # a kept error would hold the futures and their tasks

    def _lost_inputs(self, lost: _LostInputs) -> Exception:
        """Error for a pass with missing inputs: we submit our own again; the user has to persist his again."""
        if not self._connection.knows(*self._holdings.keys):
            return Lost("it has lost the rows that it was given")
        return SchedulerError(
            "Data that were persisted or scattered on the cluster are gone, with the scheduler or the workers that "
            "held them. Persist them again, or pass the dask array as it was before."
        )

    def _await(self, result: concurrent.futures.Future[Any], key: Any) -> None:
        """Wait for the result; meanwhile hand over reports, and check the workers and the task with that key."""
        result.add_done_callback(lambda _: self._inbox.put(_nothing))
        watch, looked = _Watch(self._connection, key), time.monotonic()
        while not result.done():
            self._hand_over(self._tuning.look_seconds)
            if time.monotonic() - looked >= self._tuning.look_seconds:
                watch.look()
                looked = time.monotonic()
        self._hand_over(0)

    def _no_worker(self, idle: _Idle, graph: Any, work: Work) -> SchedulerError:
        places = [work.place(key) for key in self._suspects(_tasks(graph))[:_MOST_NAMED]]
        died = f" The last to die had been given {', and '.join(places)}." if places else ""
        return SchedulerError(
            f"No worker of {self} has been at work for {idle.limit:g} s{self._connection.expected()}: they are gone, "
            "or paused because Python and its packages alone fill most of their memory limit (about 240 MiB, 400 MiB "
            f"with numba).{died} Start workers, raise their memory limit, or wait longer: "
            "dask.config.set({'daskgmm.timeout': '10min'})."
        )

    def _try_alone(self, graph: Any, killed: KilledWorker, work: Work) -> None:
        """Raise if one of the tasks that workers died with is to blame."""
        tasks = _tasks(graph)
        suspects = self._suspects(tasks)
        _log.warning(
            "%d workers of %s died one after the other with the same task: it is tried alone, and those beside it",
            killed.allowed_failures + 1, self,
        )  # fmt: skip
        for key in suspects:
            alone = {key: tasks[key] for key in upstream([key], tasks, set())}
            probe = f"gmm-alone-{uuid.uuid4().hex}"
            alone[probe] = Task(probe, _nothing, TaskRef(key))  # its value stays with the workers
            try:
                self._attempt(alone, probe)
            except KilledWorker as error:
                raise self._guilty(work.place(key), error) from error

    def _suspects(self, tasks: Mapping[Any, Any]) -> list[Any]:
        """Keys of the tasks that workers died with, the task with the most deaths first."""
        events = [event for event in self._connection.events("all") if isinstance(event, dict)]
        deaths = [event for event in events if event.get("action") == "remove-worker" and not event.get("expected")]
        given = (key for event in deaths[-_MOST_SUSPECTS:] for key in event.get("processing-tasks", ()))
        deaths_with = Counter(key for key in given if key in tasks)
        return [key for key, _ in deaths_with.most_common(_MOST_SUSPECTS)]

    def _guilty(self, place: str, killed: KilledWorker) -> SchedulerError:
        return SchedulerError(
            f"The workers of {self} die of {place}: {killed.allowed_failures + 1} of them while these were all that "
            f"they had to do ({killed}). Most often their memory does not suffice: give them more, use fewer threads "
            "for each worker, or store the data in smaller chunks. Otherwise reading or computing these rows ends the "
            "process: the workers' logs tell."
        )

    def _given_up(self, interruption: Exception, work: Work) -> SchedulerError:
        if isinstance(interruption, KilledWorker):
            return SchedulerError(
                f"Workers of {self} go on dying, {interruption.allowed_failures + 1} of them with "
                f"{work.place(interruption.task)}, though no task ends its worker when it is alone. Their memory may "
                "not suffice for several at once: give them more, or use fewer threads for each worker. Where workers "
                "are taken away as a matter of course, start the scheduler with a larger "
                "distributed.scheduler.allowed-failures."
            )
        return SchedulerError(
            f"The Dask scheduler {self} went away {self._tuning.most_replays + 1} times during one pass "
            f"({interruption}). Check its log and its memory, and fit again."
        )

    # ---- reports of tasks

    @contextmanager
    def listening(self, name: str, listener: Callable[[Report], None]) -> Iterator[None]:
        """See `Scheduler`. The listener is called in the thread that waits for the tasks, and may use the client."""
        self._is_listening = True
        self._hear()
        try:
            with listening(name, lambda report: self._inbox.put(lambda: listener(report))):
                yield
        finally:
            self._is_listening = False
            self._hearing.close()

    def _hear(self) -> None:
        """Hear reports by way of the present client, and no longer by way of an earlier client."""
        self._hearing.close()
        if self._is_listening:
            with suppress(Exception):  # the client was just closed; the next pass notices
                self._hearing.enter_context(hearing(self._connection.client))

    def _hand_over(self, seconds: float) -> None:
        """Call everything in the inbox; wait that many seconds for the first call."""
        with suppress(queue.Empty):
            if seconds:
                self._inbox.get(timeout=seconds)()
            while True:
                self._inbox.get_nowait()()


class _Watch:
    """Check on a task that is waited for: workers are at work, and the scheduler knows the task."""

    def __init__(self, connection: Connection, key: Any) -> None:
        self._connection, self._key = connection, key
        self._begin, self._was_known = time.monotonic(), False
        self._idle_since: float | None = None

    def look(self) -> None:
        """Raise if no worker has been at work for too long, or the scheduler has forgotten the task."""
        now = time.monotonic()
        self._idle_since = None if self._connection.at_work() else self._idle_since or now
        limit = timeout_seconds(FIRST_WORKER)
        if self._idle_since is not None and now - self._idle_since > limit:
            raise _Idle(limit)
        if self._connection.knows(self._key):
            self._was_known = True
        elif self._was_known or self._connection.is_forgotten() or now - self._begin > timeout_seconds(SILENCE):
            raise Lost("it does not know any more what it was asked for")  # the graph has had time to arrive


def _tasks(graph: Any) -> Mapping[Any, Any]:
    """Tasks of a graph in any of Dask's forms: tasks by key, layers of tasks, or an expression that makes them."""
    return dict(graph if isinstance(graph, Mapping) else graph.__dask_graph__())


async def _gathered(client: distributed.Client, promised: Any) -> Any:
    try:
        return await client.gather(promised, asynchronous=True)
    except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # nobody waits any more
        if getattr(error, "reason", "") == "lost dependencies":
            raise _LostInputs from error
        # An error of the futures; some of its classes would look like a cancellation of this coroutine.
        raise Lost(str(error).replace("\n", " ") or "its tasks were cancelled") from None


def _nothing(*values: Any) -> None:
    """Ignore any values."""
