"""The interface of schedulers, and the schedulers in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import SchedulerError
from .memory import Worker
from .report import Report, listening


class Work(Protocol):
    """A computation that can begin anew."""

    def build(self) -> tuple[Any, Any]:
        """Return a task graph, and the key of the wanted value."""

    def place(self, key: Any) -> str:
        """Name the data of a task of the graph for an error."""


@dataclass(frozen=True)
class GivenGraph:
    """Work with a given graph: the keys stay the same when the work begins anew."""

    graph: Any
    key: Any
    name: Callable[[Any], str]

    def build(self) -> tuple[Any, Any]:
        """See `Work`."""
        return self.graph, self.key

    def place(self, key: Any) -> str:
        """See `Work`."""
        return self.name(key)


class Scheduler(AbstractContextManager["Scheduler"], ABC):
    """A scheduler computes the value of a key of a task graph; entered for the length of a fit or a score.

    An object of a derived class may be passed as ``scheduler=`` of an estimator. A task is called with a mapping of
    the values of its ``dependencies``.
    """

    def __exit__(self, *exception: object) -> None:
        """Release what entering has acquired."""

    @property
    @abstractmethod
    def n_threads(self) -> int:
        """Tasks that run at the same time."""

    def workers(self) -> list[Worker]:
        """Worker processes of the cluster; none where the work is done in this process."""
        return []

    def listening(self, name: str, listener: Callable[[Report], None]) -> AbstractContextManager[None]:
        """Call ``listener`` with every report of tasks to that name, in threads of this scheduler's choice."""
        return listening(name, listener)

    def events(self, topic: str, receiver: str) -> list[Any]:
        """Events that workers have logged under a topic for this receiver; Dask keeps the last 1000 of a topic."""
        return []

    @abstractmethod
    def run(self, work: Work, **options: Any) -> Any:
        """Compute the value of some work.

        Raises
        ------
        SchedulerError
            If the cluster is gone for good, or its workers died of the work.
        """

    def compute(self, graph: Any, key: Any, *, place: Callable[[Any], str] = repr, **options: Any) -> Any:
        """Compute the value of a key of a graph, with the signature of Dask's schedulers."""
        return self.run(GivenGraph(graph, key, place), **options)


class ClusterScheduler(Scheduler):
    """Scheduler whose tasks run on workers, which may be other processes and may have a limit of memory."""

    @abstractmethod
    def workers(self) -> list[Worker]: ...

    @abstractmethod
    def hold(self, tasks: Mapping[Any, Any]) -> None:
        """Keep the values of tasks, which depend on nothing, for all later work to depend on."""

    @abstractmethod
    def open_caches(self, name: str, n_bytes: int) -> None:
        """Have a cache of up to ``n_bytes`` of rows in every worker, under that name, until the scheduler is left."""


class UncountedRowsError(SchedulerError):
    """The rows have to be counted before a pass can be planned, and there is nothing to count them with."""


class Planned(ClusterScheduler):
    """A cluster that is described but not started: enough to plan a pass.

    Parameters
    ----------
    workers : iterable of Worker
    """

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._workers = list(workers)

    @property
    def n_threads(self) -> int:
        return sum(worker.n_threads for worker in self._workers)

    def workers(self) -> list[Worker]:
        return list(self._workers)

    def hold(self, tasks: Mapping[Any, Any]) -> None:
        """Send nothing."""

    def open_caches(self, name: str, n_bytes: int) -> None:
        """Open nothing."""

    def run(self, work: Work, **options: Any) -> Any:
        raise UncountedRowsError(
            "A planned cluster has no worker processes, and the rows of these data have to be counted before a pass "
            "can be planned: plan for this process, call compute_chunk_sizes() on a dask array first, or start the "
            "cluster."
        )


class Local(Scheduler):
    """A scheduler of Dask's own, in this process or in child processes.

    Parameters
    ----------
    get : callable
        ``get(graph, key)``, the signature of every Dask scheduler.
    n_threads : int
    """

    def __init__(self, get: Callable[..., Any], n_threads: int) -> None:
        self._get, self._n_threads = get, n_threads

    @property
    def n_threads(self) -> int:
        return self._n_threads

    def run(self, work: Work, **options: Any) -> Any:
        return self._get(*work.build(), **options)
