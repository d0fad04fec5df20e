"""The rows with the lowest log-densities under a mixture, found while an E-step reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.row_block import RowBlock
from .folds import Cost, KernelFold

Array = np.ndarray[Any, np.dtype[Any]]

# Limits on the kept rows: share of the data, number, and size.
_KEPT_SHARE, _MOST_KEPT, _MOST_KEPT_BYTES = 0.01, 10_000, 2 << 20

# A merge joins more lists than this, so that the planned size of the values covers one full list at least.
_LISTS_FOR_EACH = 16


@dataclass(frozen=True)
class LowDensityRows:
    """Rows with the lowest log-densities, in ascending order. ``+`` keeps the lowest of both."""

    limit: int
    """Largest number of rows to keep."""
    rows: Array
    """Values of the rows, shape (n, D); float32 for float32 data, otherwise float64."""
    weights: Array
    """Weights of the rows, shape (n,)."""
    log_density: Array
    """Log-densities in nats, shape (n,)."""
    number: Array
    """Row numbers in the data, shape (n,); they decide between equal densities, whatever the order of merging."""

    def __add__(self, other: LowDensityRows) -> LowDensityRows:
        return LowDensityRows.of(
            self.limit,
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.weights, other.weights]),
            np.concatenate([self.log_density, other.log_density]),
            np.concatenate([self.number, other.number]),
        )

    @classmethod
    def of(cls, limit: int, rows: Array, weights: Array, log_density: Array, number: Array) -> LowDensityRows:
        """Keep the ``limit`` rows with the lowest log-densities."""
        lowest = np.lexsort((number, log_density))[:limit]
        return cls(limit, rows[lowest], weights[lowest], log_density[lowest], number[lowest])


@dataclass(frozen=True)
class DensityThreshold:
    """Selection of the rows that an E-step keeps."""

    limit: int
    """Largest number of rows to keep."""
    highest: float = np.inf
    """Log-density above which no row is kept, in nats. An estimate from a sample shortens the lists of kept rows."""


@dataclass(frozen=True)
class LowDensityRowsFold(KernelFold):
    """`LowDensityRows` of the data, under the parameters of a kernel."""

    threshold: DensityThreshold
    dtype: np.dtype[Any]
    """Dtype of the kept rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self, "cost", low_density_cost(self.cost, self.kernel.parameters.n_features, self.threshold.limit)
        )

    def start(self) -> _LowDensityFinder:
        """Return the evaluator for the leaves of one task."""
        return _LowDensityFinder(self)


class _LowDensityFinder:
    def __init__(self, fold: LowDensityRowsFold) -> None:
        self._fold, self._work = fold, fold.kernel.workspace()
        # Lowest densities of this task, unordered: rows above them are not among the lowest of all data either.
        self._lowest, self._highest = np.empty(0), fold.threshold.highest

    def __call__(self, start: int, block: RowBlock) -> LowDensityRows:
        fold = self._fold
        block, _ = fold.row_kind.usable(block)
        rows = block.rows
        w = np.ones(len(block)) if block.weights is None else block.weights
        with np.errstate(invalid="ignore", over="ignore"):
            density = fold.kernel.log_density(rows, self._work)
        members = np.flatnonzero((density <= self._highest) & (w > 0))
        self._remember(density[members])
        members = members[density[members] <= self._highest]
        kept = np.ascontiguousarray(rows[members], dtype=fold.dtype)
        return LowDensityRows.of(fold.threshold.limit, kept, w[members], density[members], start + members)

    def _remember(self, density: Array) -> None:
        lowest, limit = np.concatenate([self._lowest, density]), self._fold.threshold.limit
        if len(lowest) >= limit:
            lowest = np.partition(lowest, limit - 1)[:limit]
            self._highest = lowest.max()
        self._lowest = lowest


def low_density_cost(estep: Cost, n_features: int, limit: int) -> Cost:
    """Return the cost of keeping ``limit`` rows beside an E-step: the log-densities once more, and lists to merge.

    All lists of all tasks together hold about ``2 * limit`` rows, because `DensityThreshold.highest` excludes the
    others. The memory of a task therefore does not grow with the number of its lists.
    """
    n_bytes = kept_bytes(n_features, limit)
    return replace(estep, work_bytes=estep.work_bytes + 4 * n_bytes, value_bytes=n_bytes // _LISTS_FOR_EACH)


def kept_bytes(n_features: int, limit: int) -> int:
    """Size of `LowDensityRows` with ``limit`` rows."""
    return limit * (8 * n_features + 24)


def n_kept(n_rows: int, n_features: int, init_size: int) -> int:
    """Number of rows of a data set to keep for a start from a sample of ``init_size`` rows."""
    fitting = _MOST_KEPT_BYTES // kept_bytes(n_features, 1)
    return min(init_size, int(_KEPT_SHARE * n_rows), _MOST_KEPT, fitting)
