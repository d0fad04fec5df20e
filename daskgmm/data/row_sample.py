"""Samples of rows: the rows and their weights in the sample depend on row numbers, weights and a seed alone.

Without weights a sample is uniform. With weights a sample is a priority sample (Duffield, Lund & Thorup, J. ACM 54,
2007): a row of weight w gets the priority q = w / u, where u is the row's uniform random number, and the rows with the
m highest priorities are drawn. In the sample a row has the weight max(w, τ), where τ is the next highest priority: the
expectation of a sum over the sample then equals the sum over all rows. A row of weight zero is never drawn.

τ depends on the weights alone. A pass over the weights determines τ before the rows are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_PER_COUNT = 4  # numbers that Philox makes for each value of its counter

# Keys of Philox have 128 bits. The lower half is the seed; the upper half separates numbers for different purposes.
_PRIORITIES = 1 << 64


class RowSample(ABC):
    """A rule that draws rows, range by range."""

    n_rows: int
    """Largest number of rows in the sample."""

    @abstractmethod
    def __call__(self, start: int, weights: Array) -> tuple[Array, Array]:
        """Draw from the rows that begin with number ``start`` and have the given weights.

        Returns
        -------
        positions : array of shape (n_drawn,)
            Positions of the drawn rows, counted from ``start``, ascending.
        weights : array of shape (n_drawn,)
            Weights of the drawn rows in the sample.
        """


@dataclass(frozen=True)
class NumberedRows(RowSample):
    """Rows of given numbers, without those of weight zero."""

    numbers: Array | range
    """Row numbers, ascending; a range from 0 is small when it is pickled."""

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
    """Threshold of the priority; zero draws all rows of positive weight, with their own weights."""

    def __call__(self, start: int, weights: Array) -> tuple[Array, Array]:
        positions = np.flatnonzero(priorities(self.seed, start, weights) > self.threshold)
        return positions, np.maximum(weights[positions], self.threshold)


def draw_rows(n_rows: int, size: int, seed: int) -> NumberedRows:
    """Draw a uniform sample without replacement; all rows if there are at most ``size``."""
    if n_rows <= size:
        return NumberedRows(range(n_rows))
    return NumberedRows(np.sort(np.random.default_rng(seed).choice(n_rows, size, replace=False, shuffle=False)))


def draw_by_weight(weights: Array, size: int, seed: int) -> tuple[Array, Array]:
    """Draw a priority sample of rows in memory; with the same seed, a larger sample contains a smaller one.

    Returns
    -------
    positions : array of shape (n_drawn,)
        Positions of the drawn rows, ascending.
    weights : array of shape (n_drawn,)
        Weights of the drawn rows in the sample.
    """
    return PriorityRows(size, seed, threshold(priorities(seed, 0, weights), size))(0, weights)


def draw_seed(random_state: np.random.RandomState) -> int:
    """Draw the seed of a sample from a random state."""
    return int(random_state.randint(np.iinfo(np.int32).max))


def random_words(key: int, start: int, stop: int) -> Array:
    """Random numbers of rows ``start`` to ``stop``, (stop − start,), uint64: functions of key and row number alone.

    The generator is Philox (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011).
    """
    first = start % _PER_COUNT
    words = np.random.Philox(key=key, counter=start // _PER_COUNT).random_raw(first + stop - start)
    return np.asarray(words[first:])


@np.errstate(over="ignore")  # weights so large that this overflows are refused elsewhere
def priorities(seed: int, start: int, weights: Array) -> Array:
    """Priorities of the rows from number ``start`` on, (n,), from their weights."""
    words = random_words(_PRIORITIES | seed, start, start + len(weights))
    uniform = ((words >> np.uint64(11)) + np.uint64(1)) * 2.0**-53  # above 0, at most 1
    return np.asarray(weights / uniform)


def threshold(found: Array, size: int) -> float:
    """Return the next priority below the ``size`` highest; zero if there is none."""
    return float(highest(found, size + 1).min()) if len(found) > size else 0.0


def highest(values: Array, limit: int) -> Array:
    """Return the ``limit`` highest values, in no order."""
    if len(values) <= limit:
        return values
    return np.partition(values, len(values) - limit)[-limit:]
