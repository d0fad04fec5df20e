"""Samples of rows: the rows and their weights in the sample depend on row numbers, weights and a seed alone.

Without weights a sample is uniform. With weights a sample is a priority sample (Duffield, Lund & Thorup, J. ACM 54,
2007): a row of weight w gets the priority q = w / u, where u is the row's uniform random number, and the rows with the
m highest priorities are drawn. In the sample a row has the weight max(w, τ), where τ is the next highest priority: the
expectation of a sum over the sample then equals the sum over all rows. A row of weight zero is never drawn.

τ depends on the weights alone. A pass over the weights determines τ before the rows are read.

Which rows are incomplete shows only when they are read. A sample of rows that may not count is therefore drawn with
rows in reserve (`ReservedRows`), and settled when all rows have been read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_PER_COUNT = 4  # numbers that Philox makes for each value of its counter

# Keys of Philox have 128 bits. The lower half is the seed; the upper half separates numbers for different purposes.
_PRIORITIES = 1 << 64


class Drawn(NamedTuple):
    """Rows drawn from a range of rows."""

    positions: Array
    """Positions in the range, ascending, shape (n_drawn,)."""
    weights: Array
    """Weights in the sample, shape (n_drawn,)."""
    priorities: Array | None = None
    """Priorities of `ReservedRows`, shape (n_drawn,)."""


class RowSample(ABC):
    """A rule that draws rows, range by range."""

    n_rows: int
    """Largest number of rows in the sample."""

    @abstractmethod
    def __call__(self, start: int, weights: Array) -> Drawn:
        """Draw from the rows that begin with number ``start`` and have the given weights."""


@dataclass(frozen=True)
class NumberedRows(RowSample):
    """Rows of given numbers, without those of weight zero."""

    numbers: Array | range
    """Row numbers, ascending; a range from 0 is small when it is pickled."""

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        return len(self.numbers)

    def __call__(self, start: int, weights: Array) -> Drawn:
        positions = self.between(start, start + len(weights)) - start
        positions = positions[weights[positions] > 0]
        return Drawn(positions, weights[positions])

    def between(self, start: int, stop: int) -> Array:
        """Return the numbers of the drawn rows in a range of rows."""
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

    def __call__(self, start: int, weights: Array) -> Drawn:
        positions = np.flatnonzero(priorities(self.seed, start, weights) > self.threshold)
        return Drawn(positions, np.maximum(weights[positions], self.threshold))


#: Rows in reserve for each row of a sample: the sample has its size if at least every second row counts.
_RESERVE = 1


@dataclass(frozen=True)
class ReservedRows(RowSample):
    """A sample, with rows in reserve in place of those rows of the sample that turn out not to count.

    If all rows count, the settled sample is the sample itself.
    """

    sample: NumberedRows | PriorityRows
    seed: int
    n_candidates: int
    """Rows of positive weight from which the sample was drawn, incomplete ones included."""
    floor: float
    """Smallest priority of rows in reserve."""

    @classmethod
    def of(cls, sample: NumberedRows | PriorityRows, seed: int, n_candidates: int, weight: float = 1.0) -> ReservedRows:
        """Add rows in reserve to a sample; ``weight`` is the weight of each row if the sample has numbers."""
        threshold = sample.threshold if isinstance(sample, PriorityRows) else weight * n_candidates / sample.n_rows
        return cls(sample, seed, n_candidates, threshold / (1 + _RESERVE))

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        return (1 + _RESERVE) * self.sample.n_rows

    def deepened(self, n_counted: int, weight_sum: float) -> ReservedRows:
        """Return the sample with the reserve that it needs if ``n_counted`` of the candidates count.

        The incomplete rows may have been the heavy ones, so ``weight_sum``, the weight of the rows that count, limits
        the smallest priority, too.
        """
        if n_counted <= self.sample.n_rows:
            return replace(self, floor=0.0)
        share = n_counted / self.n_candidates
        return replace(self, floor=min(share * self.floor, weight_sum / self.n_rows))

    def __call__(self, start: int, weights: Array) -> Drawn:
        found = priorities(self.seed, start, weights)
        if isinstance(self.sample, NumberedRows):
            positions = self.sample.between(start, start + len(weights)) - start
            found[positions[weights[positions] > 0]] = np.inf
        positions = np.flatnonzero(found > self.floor)
        return Drawn(positions, weights[positions], found[positions])

    def settle(self, weights: Array, found: Array) -> Drawn:
        """Choose from all drawn rows, given their weights and priorities; positions are places among these rows."""
        size = self.sample.n_rows
        best = np.sort(np.argsort(-found, kind="stable")[:size])
        if isinstance(self.sample, NumberedRows):
            return Drawn(best, weights[best])
        return Drawn(best, np.maximum(weights[best], max(self.floor, threshold(found, size))))


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
    drawn = PriorityRows(size, seed, threshold(priorities(seed, 0, weights), size))(0, weights)
    return drawn.positions, drawn.weights


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
