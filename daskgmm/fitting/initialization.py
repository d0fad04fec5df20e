"""Statistics to begin with, from a sample of rows in memory: the first M-step makes parameters of them.

=================  ====================================================================================================
kmeans             k-means on the sample: each cluster is a component
k-means++          the seeds of k-means++ as means, equal counts, one common covariance: that of the rows about their
                   nearest seed
random_from_data   the same for rows drawn at random
random             random responsibilities
=================  ====================================================================================================

For k-means++ and random_from_data scikit-learn takes each seed's own row as its whole cluster, which leaves covariances
of ``reg_covar`` and weights that do not sum to one; the common covariance above is usable whatever the data's units.
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
from ..errors import InvalidWeightsError
from ..names import INIT_METHODS

Array = np.ndarray[Any, np.dtype[Any]]

_SPARE_BITS = 4  # differences of two values, squared


@dataclass(frozen=True)
class Sample:
    """Rows in memory to begin from."""

    rows: Array
    """Shape (n, D)."""
    weights: Array | None
    """Weight of each row in the sample, shape (n,)."""
    frame: Frame
    weight_sum: float | None = None
    """Sum of the weights of all data; None where the sample is complete."""

    @property
    def is_complete(self) -> bool:
        """True where the sample holds all rows that count."""
        return self.weight_sum is None


@dataclass(frozen=True)
class Initialization:
    """How a start is made."""

    structure: CovarianceStructure
    n_components: int
    method: str
    """A key of `METHODS`."""

    def __call__(self, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
        """First statistics, in the place of an E-step's.

        Parameters
        ----------
        sample : Sample
        random_state : numpy.random.RandomState
            The stream that all starts of a fit share.

        Returns
        -------
        SufficientStatistics
            Those of a sample weigh as much as all data: beside a prior, counts matter.

        Raises
        ------
        InvalidWeightsError
            If fewer rows than components have a weight.
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
    """Rows and weights for k-means, which sums squares of rows and products with weights in the rows' precision.

    Those whose sums would leave its range are multiplied by a power of two. That is exact, so k-means goes the same way
    as with a wider range.
    """
    dtype = sample.rows.dtype
    weights = None if sample.weights is None else _scaled(sample.weights, dtype, 1, len(sample.weights))
    return _scaled(sample.rows, dtype, 2, sample.rows.size), weights


def _scaled(values: Array, dtype: np.dtype[Any], power: int, n_terms: int) -> Array:
    """The values, or multiples of at most 1, such that a sum of so many of their powers is an ordinary number."""
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
    # Equal weights have to draw what no weights draw, and `choice` draws otherwise where it is given probabilities.
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
    # One component about the mean of all differences becomes equal ones about the seeds.
    return replace(
        within,
        reference=means,
        soft_counts=np.repeat(within.soft_counts / how.n_components, how.n_components),
        first=np.zeros_like(means),
        second_moments=how.structure.divide_second(within.second_moments, how.n_components),
    )


METHODS: dict[str, Callable[[Initialization, Sample, np.random.RandomState], SufficientStatistics]] = dict(
    zip(INIT_METHODS, (_kmeans, _kmeans_plusplus, _random, _random_from_data), strict=True)
)
"""Every method by its name, which is scikit-learn's ``init_params``."""
