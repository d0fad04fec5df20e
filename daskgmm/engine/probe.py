"""A look at a few rows: cheap enough to tell one data set from another before a pass."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import DataNode, Task, TaskRef

from ..data.checksum import Checksum
from ..data.dataset import Batch, Dataset, Reader, covering_batch
from ..data.task_graphs import Graph, upstream
from .interface import Engine

_PLACES = 4
_ROWS = 64


def probe(engine: Engine, dataset: Dataset) -> tuple[Checksum, ...]:
    """Return checksums of a few rows in a few places, the first and the last rows among them.

    A chunk is read for each place. The places follow from the number of rows alone.
    """
    last = max(0, dataset.n_rows - _ROWS)
    starts = np.unique(np.linspace(0, last, _PLACES).astype(np.int64)).tolist()
    return engine.checksums(dataset, [(start, min(start + _ROWS, dataset.n_rows)) for start in starts])


@dataclass(frozen=True)
class Probe:
    """Checksums of some ranges of rows, as work for a scheduler."""

    dataset: Dataset
    ranges: tuple[tuple[int, int], ...]
    slab_bytes: int

    def build(self) -> tuple[Graph, Any]:
        """Build the graph, with new keys; return the graph and the key of its value."""
        dataset, run = self.dataset, uuid.uuid4().hex
        shared, reader = dataset.shared_tasks(), TaskRef(f"gmm-reader-{run}")
        graph: Graph = {reader.key: DataNode(reader.key, dataset.reader(self.slab_bytes))}
        keys = [(f"gmm-probe-{run}", i) for i in range(len(self.ranges))]
        for key, (start, stop) in zip(keys, self.ranges, strict=True):
            batch = covering_batch(dataset, start, stop)
            graph |= {needed: shared[needed] for needed in upstream(batch.dependencies, shared, set())}
            graph[key] = Task(key, _checksum, reader, batch, start, stop, *map(TaskRef, batch.dependencies))
        root = f"gmm-probes-{run}"
        graph[root] = Task(root, _all, *map(TaskRef, keys))
        return graph, root

    def place(self, key: Any) -> str:
        """Name the data of a task for an error."""
        if not (isinstance(key, tuple) and key[0].startswith("gmm-probe-")):
            return f"task {key!r}"
        return self.dataset.rows.place(*self.ranges[key[1]])


def _checksum(reader: Reader, batch: Batch, start: int, stop: int, *values: Any) -> Checksum:
    return reader.checksum(batch, start, stop, dict(zip(batch.dependencies, values, strict=True)))


def _all(*checksums: Checksum) -> tuple[Checksum, ...]:
    return checksums
