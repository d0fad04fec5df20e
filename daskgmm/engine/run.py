"""Passes over data sets, counted."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import dask
import numpy as np
from dask.local import get_sync

from ..data.source import Dataset
from .blas import one_blas_thread
from .events import BatchFinished, EngineClosed, Listener, PassFinished, PassStarted
from .graph import ARITY, Context, Graph, Wave, build_graph, join, plan_batches, plan_waves
from .memory import CostedFold, Costs, PassPlan, check_memory, plan_pass
from .report import listening, report
from .scheduler import Scheduler, find_scheduler

Array = np.ndarray[Any, np.dtype[Any]]

# A task should be long beside the scheduler's own cost, and short enough to balance and to report.
_SHORTEST_TASK, _LONGEST_TASK = 0.05, 5.0  # seconds
_TASKS_PER_THREAD = 3


class Engine(AbstractContextManager["Engine"]):
    """Runs passes over data sets on one scheduler.

    Parameters
    ----------
    scheduler : None, str or distributed.Client
        See `find_scheduler`.
    in_process : bool
        The data are in this process's memory.
    listeners : iterable of callable
        Called with every event.

    Attributes
    ----------
    n_passes : int
        Passes so far.
    """

    def __init__(self, scheduler: Any = None, *, in_process: bool = False, listeners: Iterable[Listener] = ()) -> None:
        self._found = find_scheduler(scheduler, in_process=in_process)
        self._listeners = tuple(listeners)
        self._topic = f"daskgmm-{uuid.uuid4().hex}" if self._listeners else None
        self._resources = ExitStack()
        self._telling = threading.RLock()
        self.n_passes = 0

    def __enter__(self) -> Engine:
        with ExitStack() as stack:
            self.scheduler: Scheduler = stack.enter_context(self._found)
            stack.enter_context(one_blas_thread())
            if self._topic is not None:
                stack.enter_context(listening(self._topic, self._batch_finished, self.scheduler.client))
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.emit(EngineClosed(failed=exception[0] is not None))
        finally:
            self._resources.close()

    def emit(self, event: Any) -> None:
        """Tell the listeners; batches finish in threads, and listeners are called one at a time."""
        with self._telling:
            for listener in self._listeners:
                listener(event)

    def run(self, dataset: Dataset, fold: CostedFold, label: str) -> Any:
        """Value of a fold over all rows: one pass.

        Parameters
        ----------
        dataset : Dataset
        fold : CostedFold
        label : str
            Names the pass in events, and its tasks on the dashboard.

        Raises
        ------
        WorkerMemoryError
            If it would not fit into the workers.
        """
        edges = self._edges(dataset, fold)
        self._check(plan_pass(dataset, fold, edges, ARITY))
        context = Context(fold, dataset.reader, dataset.n_rows, self._topic)
        with self.announced(label, dataset.n_rows, len(edges) - 1):
            waves = plan_waves(dataset, edges)
            whole = len(waves) == 1
            values = (self._compute(wave, *build_graph(context, dataset, wave, label, whole=whole)) for wave in waves)
            value = next(values) if whole else join(context, values).total()
        dataset.check_unchanged()
        return value

    def plan(self, dataset: Dataset, costs: Costs) -> PassPlan:
        """How a pass would be divided, and what it would take.

        Raises
        ------
        WorkerMemoryError
            If it would not fit into the workers.
        """
        return self._check(plan_pass(dataset, costs, self._edges(dataset, costs), ARITY))

    @contextmanager
    def announced(self, label: str, n_rows: int, n_batches: int) -> Iterator[Callable[[int], None]]:
        """Tell the listeners of a pass that the caller makes, and count it.

        Yields
        ------
        callable
            For the tasks to call with the number of rows they have done; picklable.
        """
        begin = time.perf_counter()
        self._label = label
        self.emit(PassStarted(label, n_rows, n_batches))
        yield _say_nothing if self._topic is None else partial(report, self._topic)
        self.n_passes += 1
        self.emit(PassFinished(label, n_rows, time.perf_counter() - begin))

    def compute(self, collection: Any) -> Any:
        """Value of a dask collection, on this engine's scheduler."""
        (value,) = dask.compute(collection, scheduler=self.scheduler.compute)
        return value

    def _check(self, plan: PassPlan) -> PassPlan:
        check_memory(self.scheduler.workers(), plan)
        return plan

    def _edges(self, dataset: Dataset, costs: Costs) -> Array:
        return plan_batches(dataset, costs, self._batch_rows(dataset, costs))

    def _batch_rows(self, dataset: Dataset, costs: Costs) -> int:
        seconds = costs.row_seconds + dataset.rows.row_bytes / 5e8  # what decoding a compressed store manages
        fair = -(-dataset.n_rows // (_TASKS_PER_THREAD * self.scheduler.n_threads))
        return int(max(_SHORTEST_TASK / seconds, min(_LONGEST_TASK / seconds, fair)))

    def _compute(self, wave: Wave, graph: Graph, key: Any) -> Any:
        if wave.n_tasks == 1 and self.scheduler.client is None:
            return get_sync(graph, key)  # a thread pool would only add its own cost
        return self.scheduler.compute(graph, key)

    def _batch_finished(self, n_rows: int) -> None:
        self.emit(BatchFinished(self._label, n_rows))


def _say_nothing(n_rows: int) -> None:
    """Where nobody listens."""
