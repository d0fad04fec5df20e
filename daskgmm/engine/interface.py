"""The interface of engines: passes over data sets, counted and announced, whatever evaluates them."""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from ..data.checksum import Checksum
from ..data.dataset import Dataset
from ..data.reading import Reading
from ..data.row_cache import CacheAccess, RowLease
from ..data.source import Source
from ..tuning import Tuning, current
from .blas import one_blas_thread
from .combined_fold import CombinedFold
from .events import EngineClosed, Listener, PassFinished, PassStarted
from .fold import CostedFold, Costs

RowCounter = Callable[[int, int], None]
"""Called with the first row of a finished task, and its number of rows."""


@dataclass
class RunningPass:
    """A pass that has been announced."""

    on_rows: RowCounter | None
    """For the tasks to call; None where nobody listens."""
    reading: Reading = field(default_factory=Reading)


class Engine(AbstractContextManager["Engine"], ABC):
    """Runner of passes over data sets.

    Two engines give the same values to the last bit: `plain.PlainEngine` is the specification, `run.DaskEngine` runs
    the same pass as a graph of tasks.

    Parameters
    ----------
    listeners : iterable of callable
        Called with every event, one at a time.
    tuning : Tuning, optional
        None: the record in force in this process.

    Attributes
    ----------
    n_passes : int
        Passes so far.
    reading : Reading
        Bytes that the last call of `run` or `run_together` has read.
    """

    is_remote: bool = False
    """Tasks run on the workers of a cluster, which may be other processes."""

    def __init__(self, listeners: Iterable[Listener] = (), tuning: Tuning | None = None) -> None:
        self.tuning = tuning or current()
        self._listeners = tuple(listeners)
        self._telling = threading.RLock()
        self._resources = ExitStack()
        self.n_passes = 0
        self.reading = Reading()
        self._cache = ""
        self._numbers_of_sources: dict[Source, int] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._acquire(stack)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._resources:
            self._close(failed=kind is not None)

    def _acquire(self, stack: ExitStack) -> None:
        """Enter the resources of passes; leaving the engine releases them."""
        stack.enter_context(one_blas_thread())

    def _close(self, *, failed: bool) -> None:
        self.emit(EngineClosed(failed))

    def emit(self, event: Any) -> None:
        """Send an event to the listeners, one at a time: tasks finish in several threads."""
        with self._telling:
            for listener in self._listeners:
                listener(event)

    # ---- rows that are kept between passes

    def keep_rows(self, n_bytes: int) -> None:
        """Keep rows that passes read, until the engine is left: up to ``n_bytes`` in each process.

        The rows of sources that are in memory anyway are not kept.
        """
        if n_bytes:
            self._cache = uuid.uuid4().hex
            self._lease(self._cache, n_bytes)

    def _lease(self, name: str, n_bytes: int) -> None:
        """Open a cache in the processes that run passes, until the engine is left."""
        from .memory import has_room_here  # needs Dask, without which passes run that keep no rows

        self._resources.callback(RowLease(name, n_bytes, has_room_here).close)

    def access(self, dataset: Dataset) -> CacheAccess:
        """Return the access of a pass to rows that are kept."""
        kept = {place: source for place, source in enumerate(dataset.sources) if self._cache and source.cacheable}
        numbers = self._numbers_of_sources
        for source in kept.values():
            numbers.setdefault(source, len(numbers))
        return CacheAccess(self._cache, {place: numbers[source] for place, source in kept.items()})

    # ---- passes

    @contextmanager
    def announced(self, label: str, n_rows: int, n_batches: int) -> Iterator[RunningPass]:
        """Announce the pass of the ``with`` block to the listeners, and count the pass.

        Yields
        ------
        RunningPass
            Its ``reading`` is to be set in the block.
        """
        begin = time.perf_counter()
        self.emit(PassStarted(label, n_rows, n_batches))
        running = RunningPass(self._row_counter(label) if self._listeners else None)
        yield running
        self.n_passes += 1
        self.reading = reading = running.reading
        seconds = time.perf_counter() - begin
        self.emit(PassFinished(label, n_rows, seconds, reading.bytes_read, reading.bytes_cached))

    @abstractmethod
    def _row_counter(self, label: str) -> RowCounter:
        """Return the function that every task of the pass that begins now calls."""

    @abstractmethod
    def run(self, dataset: Dataset, fold: CostedFold, label: str) -> Any:
        """Return the value of a fold over all rows: one pass.

        Parameters
        ----------
        dataset : Dataset
        fold : CostedFold
        label : str
            Names the pass in events, and its tasks on the dashboard.

        Raises
        ------
        WorkerMemoryError
            If the pass would not fit into the workers.
        DataChangedError
            If the pass saw other rows than the passes before it.
        """

    @abstractmethod
    def groups(self, dataset: Dataset, costs: Sequence[Costs]) -> list[int]:
        """Return how many of the folds with these costs, one after the other, share each pass."""

    def run_together(self, dataset: Dataset, folds: Sequence[CostedFold], label: str) -> list[Any]:
        """Return values of several folds, each to the last bit what `run` gives, from one reading of the rows.

        Where memory does not suffice for all folds at a time, there is more than one pass: see `groups`.

        Raises
        ------
        WorkerMemoryError
            If one fold alone would not fit.
        """
        values: list[Any] = []
        reading = Reading()
        for length in self.groups(dataset, folds):
            group = folds[len(values) : len(values) + length]
            if length == 1:
                values.append(self.run(dataset, group[0], label))
            else:
                values.extend(self.run(dataset, CombinedFold(tuple(group)), label))
            reading += self.reading
        self.reading = reading
        return values

    @abstractmethod
    def checksums(self, dataset: Dataset, ranges: Sequence[tuple[int, int]]) -> tuple[Checksum, ...]:
        """Return checksums of some ranges of rows, each a first row and the row after the last; no pass is counted."""

    @property
    def n_threads(self) -> int:
        """Threads of this process that may share a pass over a few rows in memory, see `few_rows`."""
        return 1

    @abstractmethod
    def in_memory(self) -> Engine:
        """Return an engine for rows in this process's memory, beside this one, without listeners."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Describe what the passes are computed with: see `environment.environment`."""
