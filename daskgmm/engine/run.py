"""Passes as graphs of tasks, on Dask's schedulers."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import numpy as np

from ..data.checksum import Checksum
from ..data.dataset import Dataset
from ..data.row_cache import CacheAccess
from ..data.source import Source
from ..errors import WorkerMemoryError
from ..tuning import Tuning
from .combined_fold import SharedCosts
from .environment import environment
from .environment_report import TOPIC, Differences, EnvironmentReport, by_worker, summary, warn_of_different
from .events import BatchFinished, Listener
from .fold import CostedFold, Costs
from .graph import Context, Wave, build_graph, join, plan_batches, plan_waves, rows_of
from .interface import Engine, RowCounter
from .malloc import reusing_memory
from .memory import PassPlan, check_memory, plan_pass, spare_bytes
from .placement import Placement
from .plain import PassResult, fold_rows
from .probe import Probe
from .report import Report, Reporter
from .scheduler import ClusterScheduler, Scheduler
from .scheduler_choice import find_scheduler

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class _PartOfPass:
    """A wave of a pass, for a scheduler."""

    context: Context
    dataset: Dataset
    wave: Wave
    label: str
    whole: bool
    arity: int
    preferred: Mapping[int, str]
    """Address of the worker that is the first choice for a batch, by the number of the batch."""

    def build(self) -> tuple[Any, Any]:
        """Build the graph, with new keys; return the graph and the key of its value."""
        return build_graph(
            self.context,
            self.dataset,
            self.wave,
            self.label,
            whole=self.whole,
            arity=self.arity,
            preferred=self.preferred,
        )

    def place(self, key: Any) -> str:
        """Name the data of a task for an error."""
        rows = rows_of(key, self.wave, self.label, self.arity)
        return f"task {key!r}" if rows is None else self.dataset.rows.place(*rows)


def _block(number: int) -> str:
    return f"block {number} of a dask array"


class DaskEngine(Engine):
    """Engine that runs each pass as a graph of tasks on one scheduler.

    The plain engine's `fold_rows` evaluates a pass that would be one task in this process: a scheduler would only add
    its own cost.

    Parameters
    ----------
    scheduler : None, str, distributed.Client or Scheduler
        See `find_scheduler`.
    in_process : bool
        The data are in this process's memory.
    listeners : iterable of callable
        Called with every event, one at a time.
    tuning : Tuning, optional
        None: the record in force in this process.
    """

    def __init__(
        self,
        scheduler: Any = None,
        *,
        in_process: bool = False,
        listeners: Iterable[Listener] = (),
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__(listeners, tuning)
        found = find_scheduler(scheduler, in_process=in_process, tuning=self.tuning)
        self._found: AbstractContextManager[Scheduler] = found
        self._name = uuid.uuid4().hex
        self._report = EnvironmentReport(self._name)
        self._numbers = itertools.count()
        self._sent: dict[Source, Source] = {}
        self._held_bytes = 0
        self._placements: defaultdict[Source, Placement] = defaultdict(Placement)

    def _acquire(self, stack: ExitStack) -> None:
        self.scheduler: Scheduler = stack.enter_context(self._found)
        super()._acquire(stack)
        if self._listeners:
            stack.enter_context(self.scheduler.listening(self._name, self._batch_finished))

    def _close(self, *, failed: bool) -> None:
        super()._close(failed=failed)
        if self.n_passes and not failed:
            warn_of_different(self._differences(), stacklevel=4)

    @property
    def is_remote(self) -> bool:  # type: ignore[override]
        return self._cluster is not None

    @property
    def n_threads(self) -> int:
        return self.scheduler.n_threads

    def _lease(self, name: str, n_bytes: int) -> None:
        if self._cluster is None:
            super()._lease(name, n_bytes)
        else:
            self._cluster.open_caches(name, n_bytes)

    def spare_bytes(self, dataset: Dataset, costs: Iterable[Costs]) -> int:
        """Return the memory that passes with these costs leave to each process; see `spare_bytes`."""
        dataset = self.sent(dataset)
        plans = [plan_pass(dataset, cost, self._edges(dataset, cost), self.tuning) for cost in costs]
        return spare_bytes(self.scheduler.workers(), plans, self.scheduler.n_threads, self._held_bytes)

    @property
    def _cluster(self) -> ClusterScheduler | None:
        return self.scheduler if isinstance(self.scheduler, ClusterScheduler) else None

    def run(self, dataset: Dataset, fold: CostedFold, label: str) -> Any:
        dataset = self.sent(dataset)
        access = self.access(dataset)
        size = self._batch_rows(dataset, fold)
        edges = plan_batches(dataset, fold, size)
        if access.numbers and self.is_remote:
            self._placements[dataset.rows].shortest_batch = size
        if self.is_remote:  # only workers have a limit, and a plan takes longer than a pass over few rows
            self._check(plan_pass(dataset, fold, edges, self.tuning))
        with self.announced(label, dataset.n_rows, len(edges) - 1) as running:
            if self._is_one_task(dataset, edges):
                with reusing_memory():  # the pass may itself run inside a task
                    result = fold_rows(dataset, fold, self.tuning, running.on_rows, access)
            else:
                result = self._run_tasks(dataset, fold, edges, label, running.on_rows, access)
            running.reading = result.reading
        dataset.check_unchanged(result.checksum)
        return result.value

    def _is_one_task(self, dataset: Dataset, edges: Array) -> bool:
        return len(edges) == 2 and not self.is_remote and not dataset.shared_tasks()

    def _run_tasks(
        self,
        dataset: Dataset,
        fold: CostedFold,
        edges: Array,
        label: str,
        on_rows: RowCounter | None,
        access: CacheAccess,
    ) -> PassResult:
        tuning = self.tuning
        context = Context(fold, dataset.reader(tuning.slab_bytes, access), dataset.n_rows, on_rows, report=self._report)
        waves = plan_waves(dataset, edges, tuning.wave_tasks)
        whole = len(waves) == 1
        placement = self._placements[dataset.rows] if access.numbers and self.is_remote else Placement()
        values = (
            self.scheduler.run(
                _PartOfPass(context, dataset, wave, label, whole, tuning.arity, placement.preferred(wave.borders))
            )
            for wave in waves
        )
        found: PassResult = next(values) if whole else join(context, values)
        placement.update(found.reading.holders)
        return found

    def groups(self, dataset: Dataset, costs: Sequence[Costs]) -> list[int]:
        """Return how many of the folds, one after the other, share each pass."""
        dataset = self.sent(dataset)
        lengths: list[int] = []
        while (done := sum(lengths)) < len(costs):
            length = len(costs) - done
            while length > 1 and not self._fits(dataset, SharedCosts(tuple(costs[done : done + length]))):
                length = (length + 1) // 2
            lengths.append(length)
        return lengths

    def _fits(self, dataset: Dataset, costs: Costs) -> bool:
        """Test for a pass that fits into the workers, or, on threads here, into a moderate part of memory."""
        plan = plan_pass(dataset, costs, self._edges(dataset, costs), self.tuning)
        workers = self.scheduler.workers()
        try:
            check_memory(workers, plan, self._held_bytes)
        except WorkerMemoryError:
            return False
        return bool(workers) or plan.task.work + plan.task.values <= self.tuning.most_shared_bytes

    def sent(self, dataset: Dataset) -> Dataset:
        """Return the data set in the form that passes on this engine's scheduler read.

        Rows in memory are sent to a cluster once, with the next work, instead of with the graph of every pass.
        """
        cluster = self._cluster
        if cluster is None:
            return dataset
        return dataset.with_sources(partial(self._sent_source, cluster))

    def _sent_source(self, cluster: ClusterScheduler, source: Source) -> Source:
        if source not in self._sent:
            carried = source.carried_bytes()
            if carried < self.tuning.most_carried_bytes:
                self._sent[source] = source
            elif self._has_room(carried):
                self._sent[source], tasks = source.detached(self.tuning)
                cluster.hold(tasks)
                self._held_bytes += carried
        return self._sent.get(source, source)

    def _has_room(self, n_bytes: int) -> bool:
        """Test for room on the workers; without room, rows are sent in every pass, a few at a time."""
        limits = [worker.limit for worker in self.scheduler.workers()]
        return 0 in limits or self._held_bytes + n_bytes <= self.tuning.held_share * sum(limits)

    def plan(self, dataset: Dataset, costs: Costs) -> PassPlan:
        """Plan a pass: its division into tasks, and the memory of a task.

        Raises
        ------
        WorkerMemoryError
            If the pass would not fit into the workers.
        """
        dataset = self.sent(dataset)
        return self._check(plan_pass(dataset, costs, self._edges(dataset, costs), self.tuning))

    def _row_counter(self, label: str) -> RowCounter:
        with self._telling:
            self._label, self._number, self._told = label, next(self._numbers), set[int]()
        return Reporter(self._name, self._number)

    def checksums(self, dataset: Dataset, ranges: Sequence[tuple[int, int]]) -> tuple[Checksum, ...]:
        work = Probe(self.sent(dataset), tuple(ranges), self.tuning.slab_bytes)
        found: tuple[Checksum, ...] = self.scheduler.run(work)
        return found

    def in_memory(self) -> DaskEngine:
        if self.is_remote:
            return DaskEngine(in_process=True, tuning=self.tuning)
        engine = DaskEngine(self.scheduler, tuning=self.tuning)
        engine._found = nullcontext(self.scheduler)  # which this engine has entered, and leaves
        return engine

    def compute(self, collection: Any, place: Callable[[int], str] = _block) -> Any:
        """Compute a dask collection on this engine's scheduler.

        Parameters
        ----------
        collection : dask.array.Array
        place : callable, optional
            Names the block with that number in errors.
        """

        def named(key: Any) -> str:
            # Where Dask fused tasks, the name of the last task comes after the names of the others.
            is_block = isinstance(key, tuple) and key[0].endswith(collection.name)
            return place(key[1]) if is_block else f"task {key!r}"

        (value,) = dask.compute(collection, scheduler=partial(self.scheduler.compute, place=named))
        return value

    def environment(self) -> dict[str, str]:
        """Describe the environment of this process, and under ``"workers"`` how workers differ."""
        told = summary(self._differences())
        return environment() | ({"workers": told} if told else {})

    def _differences(self) -> Differences:
        return by_worker(self.scheduler.events(TOPIC, self._name))

    def _check(self, plan: PassPlan) -> PassPlan:
        check_memory(self.scheduler.workers(), plan, self._held_bytes)
        return plan

    def _edges(self, dataset: Dataset, costs: Costs) -> Array:
        return plan_batches(dataset, costs, self._batch_rows(dataset, costs))

    def _batch_rows(self, dataset: Dataset, costs: Costs) -> int:
        tuning = self.tuning
        seconds = costs.row_seconds + dataset.rows.row_bytes / tuning.read_bytes_per_second
        fair = -(-dataset.n_rows // (tuning.tasks_per_thread * self.scheduler.n_threads))
        rows = max(tuning.shortest_task / seconds, min(tuning.longest_task / seconds, fair))
        held = dataset.held_bytes(
            dataset.n_rows
        )  # whatever a task reads of held rows stays in memory while the task runs
        shortest = self._placements[dataset.rows].shortest_batch if dataset.rows in self._placements else None
        rows = rows if shortest is None else min(rows, shortest)
        return int(min(rows, dataset.n_rows * tuning.most_held_bytes / held) if held else rows)

    def _batch_finished(self, report: Report) -> None:
        """Emit an event for a finished task, once: tasks of a lost worker run again on another worker."""
        number, start, n_rows = report
        with self._telling:
            if number == self._number and start not in self._told:
                self._told.add(start)
                self.emit(BatchFinished(self._label, n_rows))
