"""The interface of engines: passes over data sets, counted and announced, whatever evaluates them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Self

from ..data.checksum import Checksum
from ..data.dataset import Dataset
from ..tuning import Tuning, current
from .blas import one_blas_thread
from .combined_fold import CombinedFold
from .events import EngineClosed, Listener, PassFinished, PassStarted
from .fold import CostedFold, Costs

RowCounter = Callable[[int, int], None]
"""Called with the first row of a finished task, and its number of rows."""


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
    """

    is_remote: bool = False
    """Tasks run on the workers of a cluster, which may be other processes."""

    def __init__(self, listeners: Iterable[Listener] = (), tuning: Tuning | None = None) -> None:
        self.tuning = tuning or current()
        self._listeners = tuple(listeners)
        self._telling = threading.RLock()
        self._resources = ExitStack()
        self.n_passes = 0

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

    @contextmanager
    def announced(self, label: str, n_rows: int, n_batches: int) -> Iterator[RowCounter | None]:
        """Announce the pass of the ``with`` block to the listeners, and count the pass.

        Yields
        ------
        RowCounter or None
            For the tasks to call; None where nobody listens.
        """
        begin = time.perf_counter()
        self.emit(PassStarted(label, n_rows, n_batches))
        yield self._row_counter(label) if self._listeners else None
        self.n_passes += 1
        self.emit(PassFinished(label, n_rows, time.perf_counter() - begin))

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
        for length in self.groups(dataset, folds):
            group = folds[len(values) : len(values) + length]
            if length == 1:
                values.append(self.run(dataset, group[0], label))
            else:
                values.extend(self.run(dataset, CombinedFold(tuple(group)), label))
        return values

    @abstractmethod
    def checksums(self, dataset: Dataset, ranges: Sequence[tuple[int, int]]) -> tuple[Checksum, ...]:
        """Return checksums of some ranges of rows, each a first row and the row after the last; no pass is counted."""

    @abstractmethod
    def in_memory(self) -> Engine:
        """Return an engine for rows in this process's memory, beside this one, without listeners."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Describe what the passes are computed with: see `environment.environment`."""
