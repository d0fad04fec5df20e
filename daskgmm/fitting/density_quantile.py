"""An exact quantile of the log-densities of all rows, by counting passes in bounded memory.

Log-densities are mapped to whole numbers in the same order. A pass counts the numbers in 65 536 equal parts of the
range that holds the quantile, and the next pass looks at one of these parts. As soon as the range holds few rows, a
pass collects their log-densities. That takes one pass for up to 131 072 rows, and mostly three for up to 10⁹.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.row_block import RowBlock
from ..data.row_checks import check_complete
from ..engine.interface import Engine
from .folds import KernelFold
from .predictions import KernelOutputs

Array = np.ndarray[Any, np.dtype[Any]]

LABEL = "threshold"
"""Name of the passes in events."""

_COUNTED_BITS = 16
"""Logarithm of the number of parts in which a pass counts."""

_MOST_COLLECTED = 1 << 17
"""Largest number of log-densities that a pass collects."""

_SIGN = np.uint64(1 << 63)


def ordered_numbers(values: Array) -> Array:
    """Map floats, which are not NaN, to unsigned integers in the same order."""
    bits = (np.asarray(values, np.float64) + 0.0).view(np.uint64)  # adding zero makes −0 a zero
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def float_of(number: int) -> float:
    """Inverse of `ordered_numbers`, for one number."""
    bits = number ^ (1 << 63) if number >> 63 else number ^ ((1 << 64) - 1)
    return float(np.array(bits, np.uint64).view(np.float64))


@dataclass(frozen=True)
class NumberRange:
    """The numbers whose bits but the last ``bits`` ones are those of ``first``."""

    first: int = 0
    bits: int = 64

    def holds(self, numbers: Array) -> Array:
        """Mask of the numbers in the range."""
        return (numbers >= np.uint64(self.first)) & (numbers <= np.uint64(self.first + (1 << self.bits) - 1))

    @property
    def part_bits(self) -> int:
        """Number of bits that differ in a part of the range."""
        return max(0, self.bits - _COUNTED_BITS)

    @property
    def n_parts(self) -> int:
        """Number of equal parts in which a pass counts."""
        return int(1 << (self.bits - self.part_bits))

    def part(self, index: int) -> NumberRange:
        """Part of the range."""
        return NumberRange(self.first + (index << self.part_bits), self.part_bits)

    def counts(self, numbers: Array) -> Array:
        """Count the numbers in each part; numbers outside of the range do not count."""
        inside = numbers[self.holds(numbers)] - np.uint64(self.first)
        return np.bincount((inside >> np.uint64(self.part_bits)).astype(np.intp), minlength=self.n_parts)


@dataclass(frozen=True)
class Densities:
    """Log-densities of a set of rows in a range of numbers: counted by parts, or collected. ``+`` joins two sets."""

    counts: Array
    """Rows in each part of the range; empty if log-densities are collected."""
    numbers: Array
    """Numbers in the range, unordered; empty if they are counted."""
    n_rows: int
    n_incomplete: int

    def __add__(self, other: Densities) -> Densities:
        return Densities(
            self.counts + other.counts,
            np.concatenate([self.numbers, other.numbers]),
            self.n_rows + other.n_rows,
            self.n_incomplete + other.n_incomplete,
        )


@dataclass(frozen=True)
class DensityFold(KernelFold):
    """Fold that counts or collects the log-densities of all rows in a range; its value is `Densities`."""

    outputs: KernelOutputs
    """Log-densities alone."""
    within: NumberRange
    n_collected: int | None = None
    """Largest number of log-densities to collect; None to count them."""

    @property
    def value_bytes(self) -> int:
        """Size of the counts, or of the collected numbers."""
        return 8 * (self.within.n_parts if self.n_collected is None else self.n_collected)

    @property
    def work_bytes(self) -> int:
        """Size as for other folds, the log-densities of a leaf and their numbers, and two values."""
        return self.cost.work_bytes + 48 * self.leaf_rows + 2 * self.value_bytes

    def start(self) -> _DensityEvaluator:
        """Return the evaluator for the leaves of one task."""
        return _DensityEvaluator(self)


class _DensityEvaluator:
    def __init__(self, fold: DensityFold) -> None:
        self._fold, self._work = fold, fold.kernel.workspace()

    def __call__(self, start: int, block: RowBlock) -> Densities:
        fold, n_rows = self._fold, len(block)
        (output,) = fold.outputs.outputs
        density = output.empty(n_rows)
        fold.outputs(block.rows, start, [density], self._work)
        if fold.row_kind.leaves_out:
            density = density[~np.isnan(density)]
        numbers, n_incomplete = ordered_numbers(density), n_rows - len(density)
        none = np.empty(0, np.uint64)
        if fold.n_collected is None:
            return Densities(fold.within.counts(numbers), none, n_rows, n_incomplete)
        return Densities(np.empty(0, np.intp), numbers[fold.within.holds(numbers)], n_rows, n_incomplete)


def density_quantile(engine: Engine, dataset: Dataset, fold: DensityFold, share: float) -> float:
    """Find ``numpy.quantile(log_densities, share, method="higher")`` of the complete rows.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    fold : DensityFold
        Fold of the first pass, see `first_fold`.
    share : float
        Between 0 and 1.

    Raises
    ------
    IncompleteDataError
        If no row is complete.
    """
    rank: int | None = None
    while True:
        found: Densities = engine.run(dataset, fold, LABEL)
        if rank is None:
            check_complete(found.n_rows, found.n_incomplete)
            rank = math.ceil((found.n_rows - found.n_incomplete - 1) * share)
        if fold.n_collected is not None:
            return float_of(int(np.partition(found.numbers, rank)[rank]))
        ends = np.cumsum(found.counts)
        index = int(np.searchsorted(ends, rank, side="right"))
        n_rows, part = int(found.counts[index]), fold.within.part(index)
        rank -= int(ends[index]) - n_rows
        if part.bits == 0:
            return float_of(part.first)
        fold = replace(fold, within=part, n_collected=n_rows if n_rows <= _MOST_COLLECTED else None)


def first_fold(dataset: Dataset, outputs: KernelOutputs) -> DensityFold:
    """Make the fold of the first pass, for outputs of log-densities alone."""
    n_collected = dataset.n_rows if dataset.n_rows <= _MOST_COLLECTED else None
    return DensityFold(outputs.kernel, outputs, NumberRange(), n_collected, row_kind=outputs.row_kind)
