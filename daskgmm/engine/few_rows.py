"""Passes over a few rows in memory, such as a sample: threads share their leaves, without a graph of tasks.

A task of a graph takes about a millisecond beside its work, and leaves of large data are as long as a small sample. So
leaves are shorter here, and threads of this process take one leaf after the other. The length of leaves follows from
the numbers of rows and features and the fold, so the number of threads has no influence on the bits of a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from ..data.dataset import Dataset
from ..data.row_block import RowBlock
from ..tuning import Tuning
from .fold import CostedFold, Costs, Evaluator, Fold
from .plain import PlainEngine
from .tree import Accumulator, Node


class FewRowsEngine(PlainEngine):
    """Runs passes over rows in memory in some threads of this process.

    The caller holds BLAS at one thread: an engine that is entered does.

    Parameters
    ----------
    n_threads : int
    tuning : Tuning
    """

    def __init__(self, n_threads: int, tuning: Tuning) -> None:
        super().__init__(tuning=tuning)
        self._n_threads = n_threads

    @property
    def n_threads(self) -> int:
        return self._n_threads

    def run(self, dataset: Dataset, fold: CostedFold, label: str) -> Any:
        short = _ShortLeaves(fold, short_leaf(dataset.n_rows, dataset.n_features, fold, self.tuning))
        with self.announced(label, dataset.n_rows, 1):
            return fold_on_threads(dataset.block(), short, self._n_threads)

    def groups(self, dataset: Dataset, costs: Sequence[Costs]) -> list[int]:
        return [1] * len(costs)  # sharing a reading of rows in memory saves nothing


@dataclass(frozen=True)
class _ShortLeaves:
    """A fold with leaves of another length."""

    fold: Fold
    leaf_rows: int

    def start(self) -> Evaluator:
        """Start the evaluator of the fold."""
        return self.fold.start()


def short_leaf(n_rows: int, n_features: int, costs: Costs, tuning: Tuning) -> int:
    """Rows of each leaf of a few rows in memory; the last leaf may be shorter.

    The values of all leaves, which are in memory together, take no more memory than the rows.
    """
    by_time = n_rows * costs.row_seconds / tuning.few_rows_seconds
    by_size = 8 * n_features * n_rows // max(1, costs.value_bytes)
    n_leaves = max(1, min(n_rows // tuning.few_rows_leaf, int(by_time), by_size))
    return min(-(-n_rows // (8 * n_leaves)) * 8, costs.leaf_rows)  # whole cache lines


def fold_on_threads(block: RowBlock, fold: Fold, n_threads: int) -> Any:
    """Return the value of a fold over rows in memory; up to ``n_threads`` threads evaluate its leaves."""
    total, starts = Accumulator(fold, len(block)), range(0, len(block), fold.leaf_rows)
    if n_threads == 1 or len(starts) == 1:
        total.add_rows(0, block)
        return total.total()
    values: list[Any] = [None] * len(starts)
    numbers = iter(range(len(starts)))  # threads share it: taking the next number is atomic

    def evaluate() -> None:
        evaluator = fold.start()
        for number in numbers:
            start = starts[number]
            values[number] = evaluator(start, block[start : start + fold.leaf_rows])

    n_threads = min(n_threads, len(starts))
    with ThreadPoolExecutor(n_threads, thread_name_prefix="gmm-few-rows") as pool:
        for future in [pool.submit(copy_context().run, evaluate) for _ in range(n_threads)]:
            future.result()
    for number, value in enumerate(values):
        total.add(Node(0, number, value))
    return total.total()
