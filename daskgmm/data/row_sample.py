"""Samples of rows: which rows, and how much each of them counts, follows from row numbers, weights and a seed alone.

Without weights a sample is uniform. With weights it is a priority sample (Duffield, Lund & Thorup, J. ACM 54, 2007): a
row of weight w gets the priority q = w / u, where u is a uniform random number of its own, and the rows with the m
highest priorities are drawn. In the sample a row counts max(w, τ), where τ is the next highest priority: sums over the
sample then have the expectation of sums over all rows. A row without weight is never drawn.

τ follows from the weights alone. It is found in a pass over them, before the rows are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from .row_checks import check_weights

Array = np.ndarray[Any, np.dtype[Any]]

_PER_COUNT = 4  # numbers that Philox makes of each value of its counter

# Keys of Philox have 128 bits. The lower half is a seed; other halves keep numbers for other purposes apart.
_PRIORITIES = 1 << 64

_LEAF_ROWS = 1 << 18  # rows whose weights are looked at together


class RowSample(ABC):
    """A rule that draws rows, range by range."""

    n_rows: int
    """Most rows that it draws of all the data."""

    @abstractmethod
    def __call__(self, start: int, weights: Array) -> tuple[Array, Array]:
        """Draw some of the rows from number ``start`` on, whose weights are given.

        Returns
        -------
        positions : array of shape (n_drawn,)
            Counted from ``start``, ascending.
        weights : array of shape (n_drawn,)
            What the rows count in the sample.
        """


@dataclass(frozen=True)
class NumberedRows(RowSample):
    """Rows of given numbers, as far as they have weight."""

    numbers: Array | range
    """Ascending; a range from 0 takes next to nothing where it is sent."""

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        return len(self.numbers)

    def __call__(self, start: int, weights: Array) -> tuple[Array, Array]:
        positions = self._between(start, start + len(weights)) - start
        positions = positions[weights[positions] > 0]
        return positions, weights[positions]

    def _between(self, start: int, stop: int) -> Array:
        if isinstance(self.numbers, range):
            return np.arange(start, max(start, min(stop, self.numbers.stop)))
        lo, hi = np.searchsorted(self.numbers, [start, stop])
        return self.numbers[lo:hi]


@dataclass(frozen=True)
class PriorityRows(RowSample):
    """Rows whose priority is above a threshold."""

    n_rows: int
    seed: int
    threshold: float
    """Zero: all rows that have weight, which then count what they weigh."""

    def __call__(self, start: int, weights: Array) -> tuple[Array, Array]:
        positions = np.flatnonzero(priorities(self.seed, start, weights) > self.threshold)
        return positions, np.maximum(weights[positions], self.threshold)


def draw_rows(n_rows: int, size: int, seed: int) -> NumberedRows:
    """Uniform sample without replacement; all rows where there are at most ``size``."""
    if n_rows <= size:
        return NumberedRows(range(n_rows))
    return NumberedRows(np.sort(np.random.default_rng(seed).choice(n_rows, size, replace=False, shuffle=False)))


def draw_by_weight(weights: Array, size: int, seed: int) -> tuple[Array, Array]:
    """Draw a priority sample of rows in memory; of one seed, a smaller sample's rows are some of a larger one's.

    Returns
    -------
    positions : array of shape (n_drawn,)
        Ascending.
    weights : array of shape (n_drawn,)
        The weights of the rows in the sample.
    """
    return PriorityRows(size, seed, _threshold(priorities(seed, 0, weights), size))(0, weights)


def draw_seed(random_state: np.random.RandomState) -> int:
    """Seed of a sample, the next number of a stream."""
    return int(random_state.randint(np.iinfo(np.int32).max))


def random_words(key: int, start: int, stop: int) -> Array:
    """Random numbers of rows ``start`` to ``stop``, (stop − start,), uint64: each is a function of its row's number.

    They come from Philox (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011).
    """
    first = start % _PER_COUNT
    words = np.random.Philox(key=key, counter=start // _PER_COUNT).random_raw(first + stop - start)
    return np.asarray(words[first:])


@np.errstate(over="ignore")  # weights that are so large are an error of their own
def priorities(seed: int, start: int, weights: Array) -> Array:
    """Priorities of the rows from number ``start`` on, (n,), from their weights."""
    words = random_words(_PRIORITIES | seed, start, start + len(weights))
    uniform = ((words >> np.uint64(11)) + np.uint64(1)) * 2.0**-53  # above 0, at most 1
    return np.asarray(weights / uniform)


# ---- the pass over the weights


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
            _highest(np.concatenate([self.priorities, other.priorities]), self.limit),
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
        return PriorityRows(size, seed, _threshold(self.priorities, size))


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

    def __call__(self, start: int, rows: Array, weights: Array | None) -> WeightSurvey:
        w, limit = rows[:, 0].astype(np.float64, copy=False), self._fold.size + 1
        check_weights(w, start)
        found = priorities(self._fold.seed, start, w)
        found = found[found > self._floor]
        self._highest = _highest(np.concatenate([self._highest, found]), limit)
        if len(self._highest) == limit:
            self._floor = np.nextafter(self._highest.min(), 0)
        return WeightSurvey(
            limit, len(w), int(np.count_nonzero(w)), float(w.min()), float(w.max()), _highest(found, limit)
        )


def _threshold(found: Array, size: int) -> float:
    """The next priority below the ``size`` highest; zero where there is none."""
    return float(_highest(found, size + 1).min()) if len(found) > size else 0.0


def _highest(values: Array, limit: int) -> Array:
    if len(values) <= limit:
        return values
    return np.partition(values, len(values) - limit)[-limit:]
