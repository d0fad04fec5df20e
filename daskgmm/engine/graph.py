"""A data set and a fold -> graphs of tasks.

    context                                     the fold, open handles: one node, sent once and then from peer to peer
    (gmm-<label>-<uuid>, b)                     batch b: read slab by slab, evaluate leaves, sum them up
    (gmm-reduce-<uuid>-<level>, j)              join up to `Tuning.arity` neighbours
    gmm-total-<uuid>                            the value

A graph is a plain dict that any Dask scheduler takes. Its keys are new in every pass: a scheduler that still holds a
key answers with the old value. The prefixes of keys stay the same, because dashboards and duration estimates use them.

A pass of very many tasks runs in waves: consecutive batches in a graph of their own. The root of a wave hands over
parts of the tree instead of the value, and the driver joins them. The driver makes one wave at a time and holds the
graph of that wave alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import distributed
import numpy as np
from dask.task_spec import DataNode, Task, TaskRef

from ..data.checksum import Checksum
from ..data.dataset import Batch, Dataset, Reader
from ..data.failures import tell_briefly
from ..data.reading import Reading
from ..data.source import borders
from ..data.task_graphs import gc_paused, upstream
from .blas import limit_worker, this_process
from .environment_report import EnvironmentReport
from .fold import Costs, Fold
from .interface import RowCounter
from .malloc import reusing_memory
from .placement import placed
from .plain import PassResult, fold_batch
from .tree import Accumulator, Fragment, Node

Array = np.ndarray[Any, np.dtype[Any]]
Graph = dict[Any, Any]


@dataclass(frozen=True)
class Context:
    """Fold, reader and settings that all tasks of a pass share."""

    fold: Fold
    reader: Reader
    n_rows: int
    on_rows: RowCounter | None
    """Called with the first row of each finished batch and its number of rows; None where nobody listens."""
    driver: str = field(default_factory=this_process)
    report: EnvironmentReport | None = None
    """Sent by every process that works on the pass."""


@dataclass(frozen=True)
class Seen:
    """Result of a task: the parts of the tree from some consecutive rows."""

    parts: list[Node | Fragment]
    checksum: Checksum
    reading: Reading


@dataclass(frozen=True)
class Wave:
    """Batches that are submitted in one graph."""

    borders: Array
    """Row numbers where the batches begin, and where the last batch ends."""
    shared: frozenset[Any]
    """Keys of the shared tasks that the batches depend on, directly or not."""

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.borders) - 1

    @property
    def n_tasks(self) -> int:
        """Tasks of the graph, not counting merges."""
        return self.n_batches + len(self.shared)


def plan_batches(dataset: Dataset, costs: Costs, size: int) -> Array:
    """Row numbers where tasks of about ``size`` rows begin, and where the last task ends.

    Where the layout allows it, the number of leaves of a batch is a power of two: one node comes of it, no fragments.
    """
    leaves = 1 << (max(1, size // costs.leaf_rows).bit_length() - 1)
    return borders(0, dataset.n_rows, leaves * costs.leaf_rows, dataset.rows.batch_rows, dataset.cuts)


def plan_waves(dataset: Dataset, edges: Array, wave_tasks: int) -> list[Wave]:
    """Divide a pass into graphs of at most ``wave_tasks`` tasks; a task that two graphs need is computed in each.

    Parameters
    ----------
    dataset : Dataset
    edges : numpy.ndarray
        From `plan_batches`.
    wave_tasks : int
    """
    shared = dataset.shared_tasks()
    whole = Wave(edges, frozenset(shared))
    if whole.n_tasks <= wave_tasks:
        return [whole]
    if not shared:
        return [Wave(edges[i : i + wave_tasks + 1], frozenset()) for i in range(0, len(edges) - 1, wave_tasks)]
    waves = list(_waves_with_shared_tasks(dataset, edges, shared, wave_tasks))
    # Where every batch depends on most of the data, as after a shuffle, each wave would read most of the data again.
    return waves if sum(wave.n_tasks for wave in waves) <= 2 * whole.n_tasks else [whole]


def _waves_with_shared_tasks(
    dataset: Dataset, edges: Array, shared: Mapping[Any, Any], wave_tasks: int
) -> Iterator[Wave]:
    first, needed = 0, set[Any]()
    for b, (start, stop) in enumerate(pairwise(edges.tolist())):
        dependencies = dataset.batch(start, stop).dependencies
        more = upstream(dependencies, shared, needed)
        if b > first and b + 1 - first + len(needed) + len(more) > wave_tasks:
            yield Wave(edges[first : b + 1], frozenset(needed))
            first, needed = b, set()
            more = upstream(dependencies, shared, needed)
        needed |= more
    yield Wave(edges[first:], frozenset(needed))


@gc_paused()
def build_graph(
    context: Context,
    dataset: Dataset,
    wave: Wave,
    label: str,
    *,
    whole: bool,
    arity: int,
    preferred: Mapping[int, str] = {},
) -> tuple[Any, Any]:
    """Return the graph of a wave and the key of its value.

    Parameters
    ----------
    context : Context
    dataset : Dataset
    wave : Wave
    label : str
    whole : bool
        The wave is the whole pass, and the value is that of the pass. Otherwise the value is a list of parts, for the
        driver to join with those of other waves.
    arity : int
        Parts that one merge joins.
    preferred : mapping
        Address of a worker that is the first choice for a batch, by the number of the batch.
    """
    run = uuid.uuid4().hex
    root, common = f"gmm-total-{run}", TaskRef(f"gmm-context-{run}")
    shared = dataset.shared_tasks()
    graph: Graph = {key: shared[key] for key in wave.shared}
    graph[common.key] = DataNode(common.key, context)
    keys: list[Any] = [(f"gmm-{label}-{run}", b) for b in range(wave.n_batches)]
    for key, (start, stop) in zip(keys, pairwise(wave.borders.tolist()), strict=True):
        batch = dataset.batch(start, stop)
        graph[key] = Task(key, run_batch, common, batch, *map(TaskRef, batch.dependencies))
    workers = {keys[number]: worker for number, worker in preferred.items()}
    level = 0
    while len(keys) > arity:
        groups = [keys[i : i + arity] for i in range(0, len(keys), arity)]
        keys = [(f"gmm-reduce-{run}-{level}", j) for j in range(len(groups))]
        for key, group in zip(keys, groups, strict=True):
            graph[key] = Task(key, merge, common, *map(TaskRef, group))
        level += 1
    graph[root] = Task(root, finish if whole else merge, common, *map(TaskRef, keys))
    return (placed(graph, workers) if workers else graph), root


def rows_of(key: Any, wave: Wave, label: str, arity: int) -> tuple[int, int] | None:
    """Return the first row of a batch, a merge of batches or the root of `build_graph`, and the row after the last.

    None for any other task.
    """
    match key:
        case (str(name), int(number)) if name.startswith(f"gmm-{label}-"):
            span = 1
        case (str(name), int(number)) if name.startswith("gmm-reduce-"):
            span = arity ** (int(name.rpartition("-")[2]) + 1)
        case str(name) if name.startswith("gmm-total-"):
            number, span = 0, wave.n_batches
        case _:
            return None
    first, last = number * span, min((number + 1) * span, wave.n_batches)
    return int(wave.borders[first]), int(wave.borders[last])


# ---- functions of the tasks


def run_batch(context: Context, batch: Batch, *values: Any) -> Seen:
    """Read and evaluate a batch: nodes for complete leaves, fragments at the ends of the batch."""
    _enter(context)
    inputs = dict(zip(batch.dependencies, values, strict=True))
    with reusing_memory():
        seen = fold_batch(context.fold, context.n_rows, context.reader, batch, inputs, _worker())
    if context.on_rows is not None:
        context.on_rows(batch.start, batch.n_rows)
    accumulator, checksum, reading = seen
    return Seen(accumulator.parts, checksum, reading)


def merge(context: Context, *neighbours: Seen) -> Seen:
    """Join the parts of neighbouring tasks."""
    accumulator, checksum, reading = _join(context, neighbours)
    return Seen(accumulator.parts, checksum, reading)


def finish(context: Context, *neighbours: Seen) -> PassResult:
    """Join the last parts; return the sum of all leaves, and the facts of all rows."""
    return join(context, neighbours)


def join(context: Context, neighbours: Iterable[Seen]) -> PassResult:
    """Join neighbours that come one at a time; see `finish`."""
    accumulator, checksum, reading = _join(context, neighbours)
    return PassResult(accumulator.total(), checksum, reading)


def _join(context: Context, neighbours: Iterable[Seen]) -> tuple[Accumulator, Checksum, Reading]:
    """Accumulate the parts of neighbours, one after the other."""
    _enter(context)
    accumulator, checksum, reading = Accumulator(context.fold, context.n_rows), Checksum(), Reading()
    for seen in neighbours:
        checksum += seen.checksum
        reading += seen.reading
        for part in seen.parts:
            accumulator.add(part)
    return accumulator, checksum, reading


def _worker() -> str:
    """Address of the worker that runs this task; empty where there is none."""
    try:
        return str(distributed.get_worker().address)
    except ValueError:
        return ""


def _enter(context: Context) -> None:
    """Prepare a process for the tasks of a pass; cheap after the first time."""
    tell_briefly()
    limit_worker(context.driver)
    if context.report is not None:
        context.report.send()
