"""The pass over sample weights, as rows of one feature, that settles which rows a sample is drawn of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.row_block import RowBlock
from ..data.row_checks import check_weights
from ..data.row_sample import PriorityRows, RowSample, draw_rows, highest, priorities, threshold

Array = np.ndarray[Any, np.dtype[Any]]

_LEAF_ROWS = 1 << 18  # rows whose weights are looked at together


@dataclass(frozen=True)
class WeightSurvey:
    """Facts about some rows' weights that drawing a sample needs. ``+`` joins those of two ranges of rows."""

    limit: int
    """Most priorities that are kept: one more than rows that are to be drawn."""
    n_rows: int
    n_weighted: int
    """Rows whose weight is not zero."""
    lowest: float
    highest: float
    """Weights, of all rows."""
    priorities: Array
    """The highest of them, in no order."""

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
        """True if all rows that have weight are to be drawn: no random number decides about any of them."""
        return self.n_weighted < self.limit

    def sample(self, seed: int) -> RowSample:
        """The sample that was asked for, drawn with the seed that the priorities were made with.

        Equal weights draw what no weights draw.
        """
        size = self.limit - 1
        if self.lowest == self.highest:
            return draw_rows(self.n_rows, size, seed)
        return PriorityRows(size, seed, threshold(self.priorities, size))


@dataclass(frozen=True)
class WeightSurveyFold:
    """The pass over the weights, as rows of one feature, that makes a `WeightSurvey`."""

    size: int
    """Rows that are to be drawn."""
    seed: int

    leaf_rows = _LEAF_ROWS
    row_seconds = 2e-8
    process_bytes = 0

    @property
    def work_bytes(self) -> int:
        """Random numbers and priorities of a leaf, and the highest of the task, once more while they are found."""
        return 8 * (4 * self.leaf_rows + 3 * (self.size + 1))

    @property
    def value_bytes(self) -> int:
        """The highest priorities."""
        return 8 * (self.size + 1)

    def start(self) -> _WeightSurveyor:
        """Evaluator for the leaves of one task."""
        return _WeightSurveyor(self)


class _WeightSurveyor:
    def __init__(self, fold: WeightSurveyFold) -> None:
        self._fold = fold
        # Of this task: what is below is none of the highest of all rows.
        self._highest, self._floor = np.empty(0), 0.0

    def __call__(self, start: int, block: RowBlock) -> WeightSurvey:
        w, limit = block.rows[:, 0].astype(np.float64, copy=False), self._fold.size + 1
        check_weights(w, start)
        found = priorities(self._fold.seed, start, w)
        found = found[found > self._floor]
        self._highest = highest(np.concatenate([self._highest, found]), limit)
        if len(self._highest) == limit:
            self._floor = np.nextafter(self._highest.min(), 0)
        return WeightSurvey(
            limit, len(w), int(np.count_nonzero(w)), float(w.min()), float(w.max()), highest(found, limit)
        )
