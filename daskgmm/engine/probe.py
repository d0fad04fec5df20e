"""A look at a few rows: cheap enough to tell one data set from another before a pass."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import DataNode, Task, TaskRef

from ..data.source import Batch, Dataset, Reader, borders
from ..data.tally import Tally
from .graph import Graph, upstream
from .run import Engine

_PLACES = 4
_ROWS = 64


def probe(engine: Engine, dataset: Dataset) -> tuple[Tally, ...]:
    """What is seen of a few rows in a few places, the first and the last rows among them.

    It reads a chunk for each place, on the engine's scheduler. Which rows these are follows from their number alone.
    """
    found: tuple[Tally, ...] = engine.scheduler.run(_Probe(engine.sent(dataset)))
    return found


@dataclass(frozen=True)
class _Probe:
    """The graph of a probe, for a scheduler."""

    dataset: Dataset

    @property
    def starts(self) -> list[int]:
        """Where the rows begin that are looked at."""
        last = max(0, self.dataset.n_rows - _ROWS)
        return np.unique(np.linspace(0, last, _PLACES).astype(np.int64)).tolist()

    def build(self) -> tuple[Graph, Any]:
        """The graph, with new keys, and the key of its value."""
        dataset, run = self.dataset, uuid.uuid4().hex
        shared, reader = dataset.shared_tasks(), TaskRef(f"gmm-reader-{run}")
        graph: Graph = {reader.key: DataNode(reader.key, dataset.reader)}
        keys = [(f"gmm-probe-{run}", i) for i in range(len(self.starts))]
        for key, start in zip(keys, self.starts, strict=True):
            stop = min(start + _ROWS, dataset.n_rows)
            batch = _covering(dataset, start, stop)
            graph |= {needed: shared[needed] for needed in upstream(batch.dependencies, shared, set())}
            graph[key] = Task(key, _tally, reader, batch, start, stop, *map(TaskRef, batch.dependencies))
        root = f"gmm-probes-{run}"
        graph[root] = Task(root, _together, *map(TaskRef, keys))
        return graph, root

    def place(self, key: Any) -> str:
        """What an error is to call the data of a task."""
        if not (isinstance(key, tuple) and key[0].startswith("gmm-probe-")):
            return f"task {key!r}"
        start = self.starts[key[1]]
        return self.dataset.rows.place(start, min(start + _ROWS, self.dataset.n_rows))


def _covering(dataset: Dataset, start: int, stop: int) -> Batch:
    """The shortest batch that holds those rows."""
    if dataset.cuts is None:
        return dataset.batch(start, stop)
    edges = borders(0, dataset.n_rows, 1, 1, dataset.cuts)
    first, last = np.searchsorted(edges, start, "right") - 1, np.searchsorted(edges, stop)
    return dataset.batch(int(edges[first]), int(edges[last]))


def _tally(reader: Reader, batch: Batch, start: int, stop: int, *values: Any) -> Tally:
    inputs: Mapping[Any, Any] = dict(zip(batch.dependencies, values, strict=True))
    found = Tally()
    for begin, end in reader.slabs(batch):
        first, last = max(begin, start), min(end, stop)
        if first < last:
            rows, weights = reader.read(batch, begin, end, inputs)
            part = slice(first - begin, last - begin)
            found += Tally.of(rows[part], None if weights is None else weights[part])
    return found


def _together(*tallies: Tally) -> tuple[Tally, ...]:
    return tallies
