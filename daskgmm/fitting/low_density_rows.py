"""The rows that a mixture explains worst, found while an E-step reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.row_block import RowBlock
from .folds import Cost, KernelFold

Array = np.ndarray[Any, np.dtype[Any]]

# Rows that are kept: a share of the data, a number, and their size.
_KEPT_SHARE, _MOST_KEPT, _MOST_KEPT_BYTES = 0.01, 10_000, 2 << 20

# A merge joins more lists than this, so that their sizes are counted once at least.
_LISTS_FOR_EACH = 16


@dataclass(frozen=True)
class LowDensityRows:
    """Rows with the lowest log-densities, the lowest first. ``+`` keeps the lowest of both."""

    limit: int
    """Number of rows that are kept, at most."""
    rows: Array
    """Shape (n, D), float32 where the data are, else float64."""
    weights: Array
    """Shape (n,)."""
    log_density: Array
    """In nats, shape (n,)."""
    number: Array
    """Of each row in the data: it settles which of equal ones is kept, so that the order of merging does not."""

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
        """The lowest of these rows."""
        lowest = np.lexsort((number, log_density))[:limit]
        return cls(limit, rows[lowest], weights[lowest], log_density[lowest], number[lowest])


@dataclass(frozen=True)
class DensityThreshold:
    """Which rows are to be kept."""

    limit: int
    """Number, at most."""
    highest: float = np.inf
    """Log-density above which a row is not wanted, in nats. Lists are shorter where a sample tells about how many rows
    lie below."""


@dataclass(frozen=True)
class LowDensityRowsFold(KernelFold):
    """`LowDensityRows` of the data, under the parameters of a kernel."""

    threshold: DensityThreshold
    dtype: np.dtype[Any]
    """Of the rows that are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self, "cost", low_density_cost(self.cost, self.kernel.parameters.n_features, self.threshold.limit)
        )

    def start(self) -> _LowDensityFinder:
        """Evaluator for the leaves of one task."""
        return _LowDensityFinder(self)


class _LowDensityFinder:
    def __init__(self, fold: LowDensityRowsFold) -> None:
        self._fold, self._work = fold, fold.kernel.workspace()
        # Densities of the lowest rows of this task, in no order: what lies higher is none of the lowest of all data.
        self._lowest, self._highest = np.empty(0), fold.threshold.highest

    def __call__(self, start: int, block: RowBlock) -> LowDensityRows:
        fold, rows = self._fold, block.rows
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
    """What it costs to keep so many rows, besides an E-step of that cost: as much again, and lists that are joined.

    Lists of all data together hold about twice as many rows, because `Watch.highest` lets no more of them through. So
    what a task holds does not grow with the number of its lists.
    """
    n_bytes = kept_bytes(n_features, limit)
    return replace(estep, work_bytes=estep.work_bytes + 4 * n_bytes, value_bytes=n_bytes // _LISTS_FOR_EACH)


def kept_bytes(n_features: int, limit: int) -> int:
    """Size of `LowDensityRows`."""
    return limit * (8 * n_features + 24)


def n_kept(n_rows: int, n_features: int, init_size: int) -> int:
    """How many rows of a data set are kept for a start from a sample of ``init_size``."""
    fitting = _MOST_KEPT_BYTES // kept_bytes(n_features, 1)
    return min(init_size, int(_KEPT_SHARE * n_rows), _MOST_KEPT, fitting)
