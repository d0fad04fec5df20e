"""The survey pass: summary statistics and a sample of the rows, for the first E-step.

The survey has the row count, the weighted mean and variance (all second moments if requested), extremes, and a sample
of rows (see `row_sample`), which does not depend on chunks or workers; it also checks that all values are finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.elementwise import PLAIN, ElementwiseBackend
from ..core.structure import CovarianceStructure
from ..data.dataset import Dataset
from ..data.row_block import RowBlock
from ..data.row_checks import COMPLETE_ROWS, RowKind, check_weights
from ..data.row_sample import ReservedRows, RowSample
from ..engine.tree import leaf_rows
from ..errors import DataRangeError

Array = np.ndarray[Any, np.dtype[Any]]

# Limit on sums of squared deviations, with room for the products of a component's squares and counts of rows.
_LARGEST_SQUARE_SUM = 1e305


_ARRAYS = ("mean", "squared_deviations", "minimum", "maximum", "sample", "sample_weight")  # fields of a `Survey`


@dataclass(frozen=True)
class Survey:
    """Moments, extremes and a sample of a range of rows. ``+`` joins two adjacent ranges, the earlier one first.

    Means and squared deviations are merged pairwise (Chan, Golub & LeVeque 1983), stable under any offset of the data.
    """

    n_rows: int
    n_weighted: int
    """Rows whose weight is not zero."""

    weight_sum: float

    mean: Array
    """Weighted mean, shape (D,)."""

    squared_deviations: Array
    """Σ w (x − mean)², shape (D,)."""

    minimum: Array
    """Smallest value of each feature, shape (D,)."""

    maximum: Array
    """Largest value of each feature, shape (D,)."""

    sample: Array
    """Sampled rows with positive weight in the order of the data, shape (n_sample, D); float32 for float32 data."""

    sample_weight: Array
    """Weights of the sampled rows, shape (n_sample,): the row's own weight, or more if the row represents others."""

    scatter: Scatter | None = None
    """All second moments, if they were requested."""

    n_incomplete: int = 0
    """Rows that do not count because they are incomplete."""

    sample_priority: Array | None = None
    """Priorities of the sampled rows, shape (n_sample,), in a sample with rows in reserve; None once it is settled."""

    def __post_init__(self) -> None:
        n_features, n_sampled = len(self.mean), len(self.sample)
        shapes = {"sample": (n_sampled, n_features), "sample_weight": (n_sampled,)}
        for name in _ARRAYS:
            array, shape = getattr(self, name), shapes.get(name, (n_features,))
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        if not n_sampled <= self.n_weighted <= self.n_rows:
            raise ValueError(f"{self.n_weighted} rows that count, out of {self.n_rows}, with a sample of {n_sampled}")

    def check(self, name: str, n_rows: int, n_features: int, *, weighted: bool) -> None:
        """Check that the survey is of all rows of the data, and that every number is finite.

        Parameters
        ----------
        name : str
            Name of the survey, for messages.
        n_rows, n_features : int
            Shape of the data.
        weighted : bool
            True for data with sample weights.

        Raises
        ------
        ValueError
        """
        if not 0 <= self.n_incomplete < max(1, n_rows) or self.sample_priority is not None:
            raise ValueError(f"{name} has {self.n_incomplete} incomplete rows of {n_rows}, or is not settled")
        complete = n_rows - self.n_incomplete
        if self.n_rows != n_rows or not 0 < self.weight_sum < np.inf or not (weighted or self.weight_sum == complete):
            raise ValueError(f"{name} is of {self.n_rows} rows of weight {self.weight_sum}")
        if self.n_weighted > complete or not (weighted or self.n_weighted == complete):
            raise ValueError(f"{name} is of {self.n_weighted} rows that count, out of {n_rows}")
        if len(self.mean) != n_features:
            raise ValueError(f"{name}/mean has shape {self.mean.shape}; expected ({n_features},)")
        arrays = {each: getattr(self, each) for each in _ARRAYS}
        if self.scatter is not None:
            arrays["scatter/second_moments"] = self.scatter.second_moments
            if self.scatter.second_moments.shape != (shape := self.scatter.structure.moments_shape(1, n_features)):
                raise ValueError(
                    f"{name}/scatter/second_moments has shape {self.scatter.second_moments.shape}; expected {shape}"
                )
        for each, array in arrays.items():
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name}/{each} contains NaN, infinity, or no floating-point numbers")

    @property
    def is_complete(self) -> bool:
        """Test whether the sample holds all rows with positive weight."""
        return len(self.sample) == self.n_weighted

    @property
    def deviation(self) -> Array:
        """Standard deviation of every feature, shape (D,)."""
        if self.weight_sum == 0:
            return np.zeros_like(self.mean)
        return np.asarray(np.sqrt(self.squared_deviations / self.weight_sum))

    @np.errstate(over="ignore", invalid="ignore")
    def __add__(self, other: Survey) -> Survey:
        total = self.weight_sum + other.weight_sum
        share = other.weight_sum / total if total > 0 else 0.0
        both = self.weight_sum > 0 and other.weight_sum > 0
        difference = other.mean - self.mean if both else np.zeros_like(self.mean)
        return Survey(
            self.n_rows + other.n_rows,
            self.n_weighted + other.n_weighted,
            total,
            self.mean + difference * share if self.weight_sum > 0 else other.mean,
            self.squared_deviations + other.squared_deviations + difference**2 * (self.weight_sum * share),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            np.concatenate([self.sample, other.sample]),
            np.concatenate([self.sample_weight, other.sample_weight]),
            _join(self.scatter, other.scatter, difference, self.weight_sum * share),
            self.n_incomplete + other.n_incomplete,
            None if self.sample_priority is None else np.concatenate([self.sample_priority, other.sample_priority]),
        )

    def settled(self, sampled: RowSample) -> Survey:
        """Return the survey with the final sample; ``sampled`` is the rule that has drawn the rows."""
        if self.sample_priority is None or not isinstance(sampled, ReservedRows):
            return self
        drawn = sampled.settle(self.sample_weight, self.sample_priority)
        sample = np.ascontiguousarray(self.sample[drawn.positions])
        return replace(self, sample=sample, sample_weight=drawn.weights, sample_priority=None)


@dataclass(frozen=True)
class Scatter:
    """Second moments Σ w (x − mean)(x − mean)ᵀ of a range of rows, as far as a covariance structure needs them."""

    structure: CovarianceStructure
    second_moments: Array
    """Array of shape ``structure.moments_shape(1, D)``."""

    @classmethod
    def of(cls, structure: CovarianceStructure, offsets: Array, weights: Array) -> Scatter:
        """Compute the second moments of offsets from the mean, (n, D), with weights, (n,)."""
        second_moments = np.zeros(structure.moments_shape(1, offsets.shape[1]))
        residual = np.ascontiguousarray(offsets.T)
        structure.add_scatter(second_moments, 0, residual, weights, np.empty_like(residual))
        return cls(structure, second_moments)


def scatter_bytes(structure: CovarianceStructure, n_features: int) -> int:
    """Size of a `Scatter`."""
    return 8 * math.prod(structure.moments_shape(1, n_features))


def _join(one: Scatter | None, other: Scatter | None, difference: Array, weight: float) -> Scatter | None:
    """Join two ranges of rows, whose means differ by ``difference`` (D,); ``weight`` is w₁ w₂ / (w₁ + w₂)."""
    if one is None or other is None:
        return None
    between = Scatter.of(one.structure, difference[None], np.array([weight]))
    return Scatter(one.structure, one.second_moments + other.second_moments + between.second_moments)


@dataclass(frozen=True)
class SurveyFold:
    """Fold of the survey pass; its value is a `Survey`."""

    leaf_rows: int
    n_features: int
    sampled: RowSample
    dtype: np.dtype[Any]
    """Dtype of the sample."""
    backend: ElementwiseBackend = PLAIN
    """Backend of the E-steps after the survey, loaded while the survey reads."""
    structure: CovarianceStructure | None = None
    """Covariance structure whose second moments are computed; None for variances alone."""
    row_kind: RowKind = COMPLETE_ROWS
    rounds: bool = False
    """The E-steps after the survey may round the rows to single precision."""

    @property
    def row_seconds(self) -> float:
        """Rough time of one row: second moments; other operations take less time than reading."""
        return self._scatter_bytes / 8 / 4e9

    @property
    def work_bytes(self) -> int:
        """Memory to evaluate one leaf: the rows in double precision, their offsets, products of these, and the sample.

        All values of leaves together hold each sampled row once, and once more while two values are joined.
        """
        copies = 3 if self.structure is None else 5
        row_bytes = 8 * self.n_features
        leaf = self.leaf_rows * (copies * row_bytes + self.row_kind.usable_bytes(row_bytes))
        return leaf + 3 * self._scatter_bytes + 2 * self.sampled.n_rows * (row_bytes + 16)

    @property
    def value_bytes(self) -> int:
        """Size of the moments."""
        return 8 * 4 * self.n_features + self._scatter_bytes

    @property
    def process_bytes(self) -> int:
        """Size of the code that the backend loads, once in a process."""
        return self.backend.process_bytes

    @property
    def _scatter_bytes(self) -> int:
        return 0 if self.structure is None else scatter_bytes(self.structure, self.n_features)

    def start(self) -> _Surveyor:
        """Return the evaluator for the leaves of one task."""
        self.backend.warm_up(self.dtype, rounds=self.rounds)
        return _Surveyor(self)


class _Surveyor:
    def __init__(self, fold: SurveyFold) -> None:
        self.fold = fold

    @np.errstate(over="ignore", invalid="ignore")  # `check_weight_sum` reports weights whose sum overflows
    def __call__(self, start: int, block: RowBlock) -> Survey:
        block, left_out = self.fold.row_kind.usable(block)
        rows, weights = block.rows, block.weights
        self.fold.row_kind.check(rows, start)
        if weights is not None:
            check_weights(weights, start)
        # Always in C order: the rounding of a product depends on the memory order.
        x = np.ascontiguousarray(rows, dtype=np.float64)
        w = np.ones(len(rows)) if weights is None else weights
        total = float(w.sum())
        # Offsets from the first row with positive weight, so that a large offset of the data costs no precision.
        origin = x[int(np.argmax(w > 0))]
        offsets = x - origin
        if weights is not None:
            offsets[w == 0] = 0  # squares of these rows may be infinite
        shift = w @ offsets / total if total > 0 else np.zeros(x.shape[1])
        offsets -= shift
        structure = self.fold.structure
        scatter = None if structure is None else Scatter.of(structure, offsets, w)
        drawn = self.fold.sampled(start, w)
        counted = x if left_out is None else x[~left_out]
        return Survey(
            len(rows),
            int(np.count_nonzero(w)),
            total,
            origin + shift,
            w @ (offsets * offsets),
            counted.min(axis=0, initial=np.inf),
            counted.max(axis=0, initial=-np.inf),
            np.ascontiguousarray(rows[drawn.positions], dtype=self.fold.dtype),
            drawn.weights,
            scatter,
            len(rows) - len(counted),
            drawn.priorities,
        )


def check_range(survey: Survey) -> None:
    """Raise `DataRangeError` if sums of squares of the data, multiplied by counts of rows, may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        square_sums = survey.deviation**2 * survey.n_weighted
        spread = survey.maximum - survey.minimum
    too_large = np.flatnonzero(~(square_sums < _LARGEST_SQUARE_SUM))  # NaN counts as too large
    if too_large.size:
        raise DataRangeError(int(too_large[0]), float(spread[too_large[0]]))


def survey_fold(
    dataset: Dataset,
    sampled: RowSample,
    backend: ElementwiseBackend,
    structure: CovarianceStructure | None = None,
    *,
    rounds: bool = False,
) -> SurveyFold:
    """Make the fold of the survey pass.

    Parameters
    ----------
    dataset : Dataset
    sampled : RowSample
    backend : ElementwiseBackend
    structure : CovarianceStructure, optional
        Structure whose second moments of the data are computed, too.
    rounds : bool
        The E-steps after the survey may round the rows to single precision.
    """
    d = dataset.n_features
    rows = leaf_rows(d, 0 if structure is None else scatter_bytes(structure, d))
    return SurveyFold(rows, d, sampled, sample_dtype(dataset), backend, structure, dataset.row_kind, rounds)


def sample_dtype(dataset: Dataset) -> np.dtype[Any]:
    """Dtype of sampled rows: float32 for float32 data, otherwise float64."""
    return np.dtype(np.float32 if dataset.dtype.newbyteorder("=") == np.float32 else np.float64)
