"""A pass in the calling thread: no scheduler, no graph, no tasks."""

from __future__ import annotations

from typing import Any

from ..data.source import Dataset
from .blas import one_blas_thread
from .memory import Costs
from .tree import Accumulator, Fold

# Below that setting up a scheduler and a graph would take longer than a second thread could save.
_SHORTEST_PASS = 0.05  # seconds


def is_short(dataset: Dataset, costs: Costs) -> bool:
    """Test for rows in this process's memory that are so few that a pass over them is best made here."""
    return all(source.in_process for source in dataset.sources) and dataset.n_rows * costs.row_seconds < _SHORTEST_PASS


def run_here(dataset: Dataset, fold: Fold) -> Any:
    """Value of a fold over all rows, to the last bit what `Engine.run` gives; nobody is told of the pass.

    Parameters
    ----------
    dataset : Dataset
        In this process's memory.
    fold : Fold
    """
    batch, reader = dataset.batch(0, dataset.n_rows), dataset.reader
    accumulator = Accumulator(fold, dataset.n_rows)
    with one_blas_thread():
        for start, stop in reader.slabs(batch):
            accumulator.add_rows(start, *reader.read(batch, start, stop, {}))
    return accumulator.total()
