"""A data set and a fold -> one graph of tasks.

    context                                     the fold, open handles: one node, sent once and then from peer to peer
    (gmm-<label>-<uuid>, b)                     batch b: read slab by slab, evaluate leaves, sum them up
    (gmm-reduce-<uuid>-<level>, j)              join up to eight neighbours
    gmm-total-<uuid>                            the value

The graph is a plain dict that any Dask scheduler takes. Its keys are new in every pass: a scheduler that still holds a
key answers with the old value. Their prefixes stay the same, because dashboards and duration estimates go by them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import DataNode, Task, TaskRef

from ..data.source import Dataset, Slab, ranges
from .blas import PROCESS, limit_worker
from .report import report
from .tree import Accumulator, Fold, Fragment, Node

Array = np.ndarray[Any, np.dtype[Any]]
Graph = dict[Any, Any]

#: Parts that one merge joins.
ARITY = 8


@dataclass(frozen=True)
class Context:
    """What every task of a pass needs."""

    fold: Fold
    handles: tuple[Any, Any]
    n_rows: int
    reads_ahead: bool
    topic: str | None
    """Where tasks report that they have finished; None where nobody listens."""
    driver: str = PROCESS


@dataclass(frozen=True)
class Batch:
    """What one task reads."""

    slabs: tuple[Slab, ...]
    dependencies: tuple[Any, ...]
    """Keys whose values the task is given, in the order of its arguments."""

    @property
    def n_rows(self) -> int:
        """Rows of the batch."""
        return self.slabs[-1].stop - self.slabs[0].start


def plan_batches(dataset: Dataset, fold: Fold, size: int) -> list[Batch]:
    """Divide the rows into tasks of about ``size`` rows.

    Where the layout allows it a batch is a power of two of leaves, which leaves one node and no fragments.
    """
    leaves = 1 << (max(1, size // fold.leaf_rows).bit_length() - 1)
    borders = ranges(0, dataset.n_rows, leaves * fold.leaf_rows, dataset.rows.batch_rows, dataset.cuts)
    batches = []
    for start, stop in borders:
        slabs = tuple(dataset.slabs(start, stop))
        batches.append(Batch(slabs, tuple(dict.fromkeys(key for slab in slabs for key in slab.dependencies))))
    return batches


def build_graph(context: Context, batches: list[Batch], shared: Mapping[Any, Any], label: str) -> tuple[Graph, Any]:
    """Graph of a pass and the key of its value."""
    run = uuid.uuid4().hex
    root, shared_context = f"gmm-total-{run}", f"gmm-context-{run}"
    graph: Graph = {**shared, shared_context: DataNode(shared_context, context)}
    keys: list[Any] = [(f"gmm-{label}-{run}", b) for b in range(len(batches))]
    for key, batch in zip(keys, batches, strict=True):
        graph[key] = Task(key, run_batch, TaskRef(shared_context), batch, *map(TaskRef, batch.dependencies))
    level = 0
    while len(keys) > ARITY:
        groups = [keys[i : i + ARITY] for i in range(0, len(keys), ARITY)]
        keys = [(f"gmm-reduce-{run}-{level}", j) for j in range(len(groups))]
        for key, group in zip(keys, groups, strict=True):
            graph[key] = Task(key, merge, TaskRef(shared_context), *map(TaskRef, group))
        level += 1
    graph[root] = Task(root, finish, TaskRef(shared_context), *map(TaskRef, keys))
    return graph, root


# ---- what the tasks do


def run_batch(context: Context, batch: Batch, *values: Any) -> list[Node | Fragment]:
    """Read a batch and evaluate it: nodes for complete leaves, fragments at its ends."""
    limit_worker(context.driver)
    accumulator = Accumulator(context.fold, context.n_rows)
    inputs = dict(zip(batch.dependencies, values, strict=True))
    for slab, (rows, weights) in _read(context, batch, inputs):
        accumulator.add_rows(slab.start, rows, weights)
    if context.topic is not None:
        report(context.topic, batch.n_rows)
    return accumulator.parts


def merge(context: Context, *neighbours: list[Node | Fragment]) -> list[Node | Fragment]:
    """Join the parts of neighbouring tasks."""
    return _joined(context, neighbours).parts


def finish(context: Context, *neighbours: list[Node | Fragment]) -> Any:
    """Join the last parts and return the sum of all leaves."""
    return _joined(context, neighbours).total()


def _joined(context: Context, neighbours: tuple[list[Node | Fragment], ...]) -> Accumulator:
    limit_worker(context.driver)
    accumulator = Accumulator(context.fold, context.n_rows)
    for parts in neighbours:
        for part in parts:
            accumulator.add(part)
    return accumulator


def _read(
    context: Context, batch: Batch, inputs: Mapping[Any, Any]
) -> Iterator[tuple[Slab, tuple[Array, Array | None]]]:
    """Slabs of a batch and their rows; the next one is read while the caller computes on this one."""
    if not context.reads_ahead or len(batch.slabs) == 1:
        for slab in batch.slabs:
            yield slab, slab.read(context.handles, inputs)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="gmm-read") as reader:
        coming = reader.submit(batch.slabs[0].read, context.handles, inputs)
        for slab, following in zip(batch.slabs, [*batch.slabs[1:], None], strict=True):
            rows = coming.result()
            if following is not None:
                coming = reader.submit(following.read, context.handles, inputs)
            yield slab, rows
            del rows  # two slabs are alive at a time, not three
