"""Passes over data sets, counted."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask
import numpy as np

from ..data.blocks import evaluate
from ..data.source import Dataset, Source
from ..errors import WorkerMemoryError
from .blas import one_blas_thread
from .choice import find_scheduler
from .environment import TOPIC, Kinds, Witness, environment, found, summary, warn_of_different
from .events import BatchFinished, EngineClosed, Listener, PassFinished, PassStarted
from .graph import ARITY, Context, Graph, Wave, build_graph, join, plan_batches, plan_waves, rows_of
from .memory import CostedFold, Costs, PassPlan, check_memory, plan_pass
from .report import Report, Reporter
from .scheduler import Scheduler
from .together import SharedCosts, Together

Array = np.ndarray[Any, np.dtype[Any]]

# A task should be long beside the scheduler's own cost, and short enough to balance and to report.
_SHORTEST_TASK, _LONGEST_TASK = 0.05, 5.0  # seconds
_TASKS_PER_THREAD = 3

# Folds that share a pass on threads of this process may take so much in each of them.
_MOST_SHARED_BYTES = 512 << 20

# Rows in memory that are sent to a cluster: few with every pass, more only once, as long as they take no more than this
# share of its workers' memory, from which they cannot be spilled. And what one task may read of them.
_LARGE = 1 << 20  # bytes
_HELD_SHARE = 0.25
_MOST_HELD_BYTES = 64 << 20


@dataclass(frozen=True)
class _PartOfPass:
    """A wave of a pass, for a scheduler."""

    context: Context
    dataset: Dataset
    wave: Wave
    label: str
    whole: bool

    def build(self) -> tuple[Graph, Any]:
        """Its graph, with new keys, and the key of its value."""
        return build_graph(self.context, self.dataset, self.wave, self.label, whole=self.whole)

    def place(self, key: Any) -> str:
        """What an error is to call the data of a task."""
        rows = rows_of(key, self.wave, self.label)
        return f"task {key!r}" if rows is None else self.dataset.rows.place(*rows)


def _block(number: int) -> str:
    return f"block {number} of a dask array"


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
        self._asked = scheduler
        self._found = find_scheduler(scheduler, in_process=in_process)
        self._listeners = tuple(listeners)
        self._name = uuid.uuid4().hex if self._listeners else None
        self._witness = Witness(uuid.uuid4().hex)
        self._resources = ExitStack()
        self._telling = threading.RLock()
        self._numbers = itertools.count()
        self._sent: dict[Source, Source] = {}
        self._held_bytes = 0
        self.n_passes = 0

    def __enter__(self) -> Engine:
        self._resources = self._acquired()
        return self

    def _acquired(self) -> ExitStack:
        with ExitStack() as stack:
            self.scheduler: Scheduler = stack.enter_context(self._found)
            stack.enter_context(one_blas_thread())
            if self._name is not None:
                stack.enter_context(self.scheduler.listening(self._name, self._batch_finished))
            return stack.pop_all()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.emit(EngineClosed(failed=kind is not None))
            if kind is None and self.n_passes:
                warn_of_different(self._witnessed(), stacklevel=3)
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
        DataChangedError
            If it saw other rows than the passes before it.
        """
        dataset = self.sent(dataset)
        edges = self._edges(dataset, fold)
        if self.scheduler.is_remote:  # only workers have a limit, and a plan takes longer than a pass over few rows
            self._check(plan_pass(dataset, fold, edges, ARITY))
        with self.announced(label, dataset.n_rows, len(edges) - 1) as on_rows:
            context = Context(fold, dataset.reader, dataset.n_rows, on_rows, witness=self._witness)
            waves = plan_waves(dataset, edges)
            whole = len(waves) == 1
            values = (self._compute(_PartOfPass(context, dataset, wave, label, whole)) for wave in waves)
            value, tally = next(values) if whole else join(context, values)
        dataset.check_unchanged(tally)
        return value

    def run_together(self, dataset: Dataset, folds: Sequence[CostedFold], label: str) -> list[Any]:
        """Values of several folds, each to the last bit what `run` gives; the rows are read once for all of them.

        Where memory does not hold all of them at a time, there are more passes than one: see `groups`.

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
                values.extend(self.run(dataset, Together(tuple(group)), label))
        return values

    def groups(self, dataset: Dataset, costs: Sequence[Costs]) -> list[int]:
        """How many of them, one after the other, share each pass."""
        dataset = self.sent(dataset)
        lengths: list[int] = []
        while (done := sum(lengths)) < len(costs):
            length = len(costs) - done
            while length > 1 and not self._fits(dataset, SharedCosts(tuple(costs[done : done + length]))):
                length = (length + 1) // 2
            lengths.append(length)
        return lengths

    def _fits(self, dataset: Dataset, costs: Costs) -> bool:
        """Whether a pass fits into the workers, or, on threads of this process, into a moderate part of it."""
        plan = plan_pass(dataset, costs, self._edges(dataset, costs), ARITY)
        workers = self.scheduler.workers()
        try:
            check_memory(workers, plan, self._held_bytes)
        except WorkerMemoryError:
            return False
        return bool(workers) or plan.task.work + plan.task.values <= _MOST_SHARED_BYTES

    def sent(self, dataset: Dataset) -> Dataset:
        """The data set in the form that passes on this engine's scheduler read.

        What rows in memory would bring into the graph of every pass is sent to a cluster once, with the next work.
        """
        if not self.scheduler.is_remote:
            return dataset
        weights = None if dataset.weights is None else self._sent_source(dataset.weights)
        return replace(dataset, rows=self._sent_source(dataset.rows), weights=weights)

    def _sent_source(self, source: Source) -> Source:
        if source not in self._sent:
            carried = source.carried_bytes()
            if carried < _LARGE:
                self._sent[source] = source
            elif self._has_room(carried):
                self._sent[source], tasks = source.detached()
                self.scheduler.hold(tasks)
                self._held_bytes += carried
        return self._sent.get(source, source)

    def _has_room(self, n_bytes: int) -> bool:
        """Test for room for so much more on the workers; without room, rows are sent in every pass, a few at a time."""
        limits = [worker.limit for worker in self.scheduler.workers()]
        return 0 in limits or self._held_bytes + n_bytes <= _HELD_SHARE * sum(limits)

    def plan(self, dataset: Dataset, costs: Costs) -> PassPlan:
        """How a pass would be divided, and what it would take.

        Raises
        ------
        WorkerMemoryError
            If it would not fit into the workers.
        """
        dataset = self.sent(dataset)
        return self._check(plan_pass(dataset, costs, self._edges(dataset, costs), ARITY))

    @contextmanager
    def announced(self, label: str, n_rows: int, n_batches: int) -> Iterator[Reporter | None]:
        """Tell the listeners of a pass that the caller makes, and count it.

        Yields
        ------
        Reporter or None
            For the tasks to call; None where nobody listens.
        """
        begin = time.perf_counter()
        with self._telling:
            self._label, self._number, self._told = label, next(self._numbers), set[int]()
        self.emit(PassStarted(label, n_rows, n_batches))
        yield None if self._name is None else Reporter(self._name, self._number)
        self.n_passes += 1
        self.emit(PassFinished(label, n_rows, time.perf_counter() - begin))

    def in_memory(self) -> Engine:
        """An engine for data in this process's memory, beside this one: it tells nobody, and counts for itself."""
        return Engine(None if self.scheduler.is_remote else self._asked, in_process=True)

    def compute(self, collection: Any, place: Callable[[int], str] = _block) -> Any:
        """Value of a dask collection, on this engine's scheduler.

        Parameters
        ----------
        collection : dask.array.Array
        place : callable, optional
            What an error is to call the block with that number.
        """

        def named(key: Any) -> str:
            # Where Dask fused tasks, the name of the last one comes after those of the others.
            is_block = isinstance(key, tuple) and key[0].endswith(collection.name)
            return place(key[1]) if is_block else f"task {key!r}"

        (value,) = dask.compute(collection, scheduler=partial(self.scheduler.compute, place=named))
        return value

    def environment(self) -> dict[str, str]:
        """What this process computes with, and under ``"workers"`` in what others that did the work differ from it."""
        told = summary(self._witnessed())
        return environment() | ({"workers": told} if told else {})

    def _witnessed(self) -> Kinds:
        return found(self.scheduler.events(TOPIC, self._witness.name))

    def _check(self, plan: PassPlan) -> PassPlan:
        check_memory(self.scheduler.workers(), plan, self._held_bytes)
        return plan

    def _edges(self, dataset: Dataset, costs: Costs) -> Array:
        return plan_batches(dataset, costs, self._batch_rows(dataset, costs))

    def _batch_rows(self, dataset: Dataset, costs: Costs) -> int:
        seconds = costs.row_seconds + dataset.rows.row_bytes / 5e8  # what decoding a compressed store manages
        fair = -(-dataset.n_rows // (_TASKS_PER_THREAD * self.scheduler.n_threads))
        rows = max(_SHORTEST_TASK / seconds, min(_LONGEST_TASK / seconds, fair))
        held = dataset.held_bytes(dataset.n_rows)  # all that a task reads of it is in memory while it runs
        return int(min(rows, dataset.n_rows * _MOST_HELD_BYTES / held) if held else rows)

    def _compute(self, part: _PartOfPass) -> Any:
        if part.wave.n_tasks == 1 and not self.scheduler.is_remote:
            graph, key = part.build()
            return evaluate(graph, [key], {})[0]  # a scheduler would only add its own cost
        return self.scheduler.run(part)

    def _batch_finished(self, report: Report) -> None:
        """Tell of a task, once: those of a worker that is lost run again, on another."""
        number, start, n_rows = report
        with self._telling:
            if number == self._number and start not in self._told:
                self._told.add(start)
                self.emit(BatchFinished(self._label, n_rows))
