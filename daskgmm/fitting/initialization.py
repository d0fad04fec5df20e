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


@dataclass(frozen=True)
class Sample:
    """Rows in memory to begin from."""

    rows: Array
    """Shape (n, D)."""
    weights: Array | None
    """Sample weights, shape (n,)."""
    frame: Frame
    weight_sum: float | None = None
    """Of all data; None where the sample is all of them."""


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
            f"sample_weight is positive for {n_heavy} of the rows that the start is made from, which is fewer than "
            f"n_components = {n_components}. Leave rows of weight zero out, or increase init_size."
        )


def _from_responsibilities(how: Initialization, sample: Sample, responsibilities: Array) -> SufficientStatistics:
    if sample.weights is not None:
        responsibilities = responsibilities * sample.weights[:, None]
    return statistics_of_responsibilities(
        how.structure, sample.rows.astype(np.float64, copy=False), responsibilities, sample.frame
    )


def _kmeans(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    kmeans = KMeans(how.n_components, n_init=1, random_state=random_state)
    labels = kmeans.fit(sample.rows, sample_weight=sample.weights).labels_
    return _from_responsibilities(how, sample, np.eye(how.n_components)[labels])


def _random(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    responsibilities = random_state.uniform(size=(len(sample.rows), how.n_components))
    return _from_responsibilities(how, sample, responsibilities / responsibilities.sum(axis=1, keepdims=True))


def _kmeans_plusplus(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> SufficientStatistics:
    _, seeds = kmeans_plusplus(sample.rows, how.n_components, sample_weight=sample.weights, random_state=random_state)
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
        second=how.structure.divide_second(within.second, how.n_components),
    )


METHODS: dict[str, Callable[[Initialization, Sample, np.random.RandomState], SufficientStatistics]] = dict(
    zip(INIT_METHODS, (_kmeans, _kmeans_plusplus, _random, _random_from_data), strict=True)
)
"""Every method by its name, which is scikit-learn's ``init_params``."""
