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

Array = np.ndarray[Any, np.dtype[Any]]

_PER_COUNT = 4  # numbers that Philox makes of each value of its counter

# Keys of Philox have 128 bits. The lower half is a seed; other halves keep numbers for other purposes apart.
_PRIORITIES = 1 << 64


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
    return PriorityRows(size, seed, threshold(priorities(seed, 0, weights), size))(0, weights)


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


def threshold(found: Array, size: int) -> float:
    """Return the next priority below the ``size`` highest; zero where there is none."""
    return float(highest(found, size + 1).min()) if len(found) > size else 0.0


def highest(values: Array, limit: int) -> Array:
    """Return the ``limit`` highest values, in no order."""
    if len(values) <= limit:
        return values
    return np.partition(values, len(values) - limit)[-limit:]
