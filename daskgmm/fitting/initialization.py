"""Initial statistics of a start, from a sample of rows in memory; the first M-step makes parameters from them.

=================  ====================================================================================================
kmeans             k-means on the sample: each cluster is a component
k-means++          the seeds of k-means++ as means, equal counts, and one common covariance: the covariance of the rows
                   about their nearest seeds
random_from_data   rows drawn at random as means, with counts and covariance as for k-means++
random             random responsibilities
=================  ====================================================================================================

For k-means++ and random_from_data, scikit-learn takes the seed's own row as the whole cluster, which leaves covariances
of ``reg_covar`` and weights that do not sum to one. The common covariance is usable in any units of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import pairwise_distances_argmin

from ..core.statistics import Frame, SufficientStatistics, statistics_of_responsibilities
from ..core.structure import CovarianceStructure
from ..data.row_checks import COMPLETE_ROWS, RowKind
from ..errors import InvalidWeightsError
from ..names import INIT_METHODS

Array = np.ndarray[Any, np.dtype[Any]]

_SPARE_BITS = 4  # for squared differences of two values


@dataclass(frozen=True)
class Sample:
    """Rows in memory from which starts are made."""

    rows: Array
    """Shape (n, D)."""
    weights: Array | None
    """Weight of each row in the sample, shape (n,)."""
    frame: Frame
    weight_sum: float | None = None
    """Sum of the weights of all data; None if the sample is complete."""
    row_kind: RowKind = COMPLETE_ROWS

    @property
    def is_complete(self) -> bool:
        """Test whether the sample holds all rows with positive weight."""
        return self.weight_sum is None


@dataclass(frozen=True)
class Initialization:
    """Method of making the initial statistics of a start."""

    structure: CovarianceStructure
    n_components: int
    method: str
    """A key of `METHODS`."""

    def __call__(self, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
        """Make the statistics for the first M-step, in place of an E-step.

        Parameters
        ----------
        sample : Sample
        random_state : numpy.random.RandomState
            Random number stream, shared by all starts of a fit.

        Returns
        -------
        SufficientStatistics
            Statistics of the sample, scaled to the weight of all data, because counts matter beside a prior.

        Raises
        ------
        InvalidWeightsError
            If fewer rows than components have positive weight.
        """
        _check_enough(sample, self.n_components)
        statistics = METHODS[self.method](self, sample, random_state)
        if sample.weight_sum is None:
            return statistics
        return statistics.times(sample.weight_sum / statistics.weight_sum)


def _check_enough(sample: Sample, n_components: int) -> None:
    if sample.weights is None:
        return
    n_heavy = int(np.count_nonzero(sample.weights))
    if n_heavy < n_components:
        raise InvalidWeightsError(
            f"sample_weight is positive for {n_heavy} rows, which is fewer than n_components = {n_components}: rows of "
            "weight zero do not count. Decrease n_components, or give more rows a weight."
        )


def _from_responsibilities(how: Initialization, sample: Sample, responsibilities: Array) -> SufficientStatistics:
    if sample.weights is not None:
        responsibilities = responsibilities * sample.weights[:, None]
    return statistics_of_responsibilities(
        how.structure, sample.rows.astype(np.float64, copy=False), responsibilities, sample.frame
    )


def _kmeans(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    rows, weights = _in_range(sample)
    kmeans = KMeans(how.n_components, n_init=1, random_state=random_state)
    labels = kmeans.fit(rows, sample_weight=weights).labels_
    return _from_responsibilities(how, sample, np.eye(how.n_components)[labels])


def _in_range(sample: Sample) -> tuple[Array, Array | None]:
    """Return rows and weights within the range of k-means, which sums their squares and products in the rows' dtype.

    Values whose sums would overflow or underflow are multiplied by a power of two. The multiplication is exact, so
    k-means takes the same steps as with a wider range.
    """
    dtype = sample.rows.dtype
    weights = None if sample.weights is None else _scaled(sample.weights, dtype, 1, len(sample.weights))
    return _scaled(sample.rows, dtype, 2, sample.rows.size), weights


def _scaled(values: Array, dtype: np.dtype[Any], power: int, n_terms: int) -> Array:
    """Scale values by a power of two, if needed, so that a sum of ``n_terms`` powers stays in the dtype's range."""
    limits = np.finfo(dtype)
    largest = float(max(abs(float(values.max())), abs(float(values.min()))))
    logarithm = power * np.log2(largest) if largest > 0 else 0.0
    if limits.minexp + limits.nmant < logarithm < limits.maxexp - np.log2(n_terms) - _SPARE_BITS:
        return values
    return np.asarray(np.ldexp(values, -int(np.frexp(largest)[1])))


def _random(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    responsibilities = random_state.uniform(size=(len(sample.rows), how.n_components))
    return _from_responsibilities(how, sample, responsibilities / responsibilities.sum(axis=1, keepdims=True))


def _kmeans_plusplus(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    rows, weights = _in_range(sample)
    _, seeds = kmeans_plusplus(rows, how.n_components, sample_weight=weights, random_state=random_state)
    return _around_seeds(how, sample, seeds)


def _random_from_data(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    weights = sample.weights
    # Equal weights must draw the same rows as no weights, and `choice` draws other rows with equal probabilities.
    probabilities = None if weights is None or np.ptp(weights) == 0 else weights / weights.sum()
    seeds = random_state.choice(len(sample.rows), size=how.n_components, replace=False, p=probabilities)
    return _around_seeds(how, sample, seeds)


def _around_seeds(how: Initialization, sample: Sample, seeds: Array) -> SufficientStatistics:
    means = sample.rows[seeds].astype(np.float64)
    scaled = (sample.rows - sample.frame.center) / sample.frame.scale
    nearest = pairwise_distances_argmin(scaled, scaled[seeds])
    weights = np.ones(len(scaled)) if sample.weights is None else sample.weights
    around_zero = Frame(np.zeros_like(sample.frame.center), sample.frame.scale)
    within = statistics_of_responsibilities(how.structure, sample.rows - means[nearest], weights[:, None], around_zero)
    # One component about the mean of all differences becomes equal components about the seeds.
    return replace(
        within,
        reference=means,
        soft_counts=np.repeat(within.soft_counts / how.n_components, how.n_components),
        first=np.zeros_like(means),
        second_moments=how.structure.divide_moments(within.second_moments, how.n_components),
    )


METHODS: dict[str, Callable[[Initialization, Sample, np.random.RandomState], SufficientStatistics]] = dict(
    zip(INIT_METHODS, (_kmeans, _kmeans_plusplus, _random, _random_from_data), strict=True)
)
"""Methods by name: the values of ``init_params``, as in scikit-learn."""
