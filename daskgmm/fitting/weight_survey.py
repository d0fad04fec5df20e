"""The pass over the sample weights, as rows of one feature, for samples drawn by weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.row_block import RowBlock
from ..data.row_checks import COMPLETE_ROWS, RowKind, check_weights
from ..data.row_sample import NumberedRows, PriorityRows, draw_rows, highest, priorities, threshold

Array = np.ndarray[Any, np.dtype[Any]]

_LEAF_ROWS = 1 << 18


@dataclass(frozen=True)
class WeightSurvey:
    """Summary of the weights of a range of rows, from which a sample is drawn. ``+`` joins two ranges."""

    limit: int
    """Largest number of priorities to keep: one more than the rows to draw."""
    n_rows: int
    n_weighted: int
    """Rows whose weight is not zero."""
    lowest: float
    """Lowest weight of all rows."""
    highest: float
    """Highest weight of all rows."""
    priorities: Array
    """Highest priorities, unordered."""

    def __add__(self, other: WeightSurvey) -> WeightSurvey:
        return WeightSurvey(
            self.limit,
            self.n_rows + other.n_rows,
            self.n_weighted + other.n_weighted,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            highest(np.concatenate([self.priorities, other.priorities]), self.limit),
        )

    @property
    def is_complete(self) -> bool:
        """Test whether the sample has all rows with positive weight, so that no random number decides."""
        return self.n_weighted < self.limit

    def sample(self, seed: int) -> NumberedRows | PriorityRows:
        """Draw the sample; ``seed`` must be the seed of the priorities.

        Equal weights draw the same rows as no weights.
        """
        size = self.limit - 1
        if self.lowest == self.highest:
            return draw_rows(self.n_rows, size, seed)
        return PriorityRows(size, seed, threshold(self.priorities, size))


@dataclass(frozen=True)
class WeightSurveyFold:
    """Fold of the pass over the weights, as rows of one feature; its value is a `WeightSurvey`."""

    size: int
    """Number of rows to draw."""
    seed: int
    row_kind: RowKind = COMPLETE_ROWS
    """Kind of the rows that the weights belong to."""

    leaf_rows = _LEAF_ROWS
    row_seconds = 2e-8
    process_bytes = 0

    @property
    def work_bytes(self) -> int:
        """Size of a leaf's random numbers and priorities, and of the task's highest priorities with their copies."""
        return 8 * (4 * self.leaf_rows + 3 * (self.size + 1))

    @property
    def value_bytes(self) -> int:
        """Size of the highest priorities."""
        return 8 * (self.size + 1)

    def start(self) -> _WeightSurveyor:
        """Return the evaluator for the leaves of one task."""
        return _WeightSurveyor(self)


class _WeightSurveyor:
    def __init__(self, fold: WeightSurveyFold) -> None:
        self._fold = fold
        # Highest priorities of this task: priorities below them are not among the highest of all rows either.
        self._highest, self._floor = np.empty(0), 0.0

    def __call__(self, start: int, block: RowBlock) -> WeightSurvey:
        w, limit = block.rows[:, 0].astype(np.float64, copy=False), self._fold.size + 1
        n_rows, known = len(w), w
        if self._fold.row_kind.leaves_out:
            # An incomplete row needs no valid weight. The survey, which reads the rows, checks the others.
            valid = np.isfinite(w) & (w >= 0)
            known, w = w[valid], np.where(valid, w, 0.0)
        else:
            check_weights(w, start)
        candidates = priorities(self._fold.seed, start, w)
        candidates = candidates[candidates > self._floor]
        self._highest = highest(np.concatenate([self._highest, candidates]), limit)
        if len(self._highest) == limit:
            self._floor = np.nextafter(self._highest.min(), 0)
        lowest, largest = float(known.min(initial=np.inf)), float(known.max(initial=-np.inf))
        return WeightSurvey(limit, n_rows, int(np.count_nonzero(w)), lowest, largest, highest(candidates, limit))
