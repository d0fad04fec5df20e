"""Parameters to begin with, from a sample of rows in memory.

=================  ====================================================================================================
kmeans             k-means on the sample; weights, means and covariances of its clusters
k-means++          the seeds of k-means++ as means, equal weights, one common covariance: that of the rows about their
                   nearest seed
random_from_data   the same for rows drawn at random
random             random responsibilities
=================  ====================================================================================================

For k-means++ and random_from_data scikit-learn takes each seed's own row as its whole cluster, which leaves covariances
of ``reg_covar`` and weights that do not sum to one; the common covariance above is usable whatever the data's units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import pairwise_distances_argmin

from ..core.maximum_likelihood import estimate
from ..core.mixture import MixtureParameters
from ..core.statistics import Frame, statistics_of_responsibilities
from ..core.structure import CovarianceStructure
from ..errors import InvalidWeightsError

Array = np.ndarray[Any, np.dtype[Any]]
Moments = tuple[Array, Array, Array]
"""Weights, means, covariances."""


@dataclass(frozen=True)
class Sample:
    """Rows in memory to begin from."""

    rows: Array
    """Shape (n, D)."""
    weights: Array | None
    """Sample weights, shape (n,)."""
    frame: Frame


@dataclass(frozen=True)
class GivenParameters:
    """What the user gave of the parameters; None for what is to be estimated."""

    weights: Array | None = None
    means: Array | None = None
    precisions_cholesky: Array | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is to be estimated."""
        return self.weights is not None and self.means is not None and self.precisions_cholesky is not None


@dataclass(frozen=True)
class Initialization:
    """How a start finds its first parameters."""

    structure: CovarianceStructure
    n_components: int
    method: str
    """A key of `METHODS`."""
    reg_covar: float
    given: GivenParameters

    def __call__(self, sample: Sample, random_state: np.random.RandomState) -> MixtureParameters:
        """First parameters.

        Parameters
        ----------
        sample : Sample
        random_state : numpy.random.RandomState
            The stream that all starts of a fit share.

        Raises
        ------
        IllDefinedCovarianceError
            If a component of the start has no usable covariance.
        InvalidWeightsError
            If fewer rows than components have a weight.
        """
        given, structure = self.given, self.structure
        if given.weights is not None and given.means is not None and given.precisions_cholesky is not None:
            return MixtureParameters.from_precisions_cholesky(
                structure, given.weights, given.means, given.precisions_cholesky
            )
        _check_enough(sample, self.n_components)
        weights, means, covariances = METHODS[self.method](self, sample, random_state)
        weights = weights if given.weights is None else given.weights
        means = means if given.means is None else given.means
        if given.precisions_cholesky is None:
            return MixtureParameters.from_covariances(structure, weights, means, covariances)
        return MixtureParameters.from_precisions_cholesky(structure, weights, means, given.precisions_cholesky)


def _check_enough(sample: Sample, n_components: int) -> None:
    if sample.weights is None:
        return
    n_heavy = int(np.count_nonzero(sample.weights))
    if n_heavy < n_components:
        raise InvalidWeightsError(
            f"sample_weight is positive for {n_heavy} of the {len(sample.weights)} rows that the start is made from, "
            f"which is fewer than n_components = {n_components}. Leave rows of weight zero out, or increase init_size."
        )


def _from_responsibilities(how: Initialization, sample: Sample, responsibilities: Array) -> Moments:
    if sample.weights is not None:
        responsibilities = responsibilities * sample.weights[:, None]
    statistics = statistics_of_responsibilities(
        how.structure, sample.rows.astype(np.float64, copy=False), responsibilities, sample.frame
    )
    return estimate(how.structure, statistics, how.reg_covar)


def _kmeans(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> Moments:
    kmeans = KMeans(how.n_components, n_init=1, random_state=random_state)
    labels = kmeans.fit(sample.rows, sample_weight=sample.weights).labels_
    return _from_responsibilities(how, sample, np.eye(how.n_components)[labels])


def _random(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> Moments:
    responsibilities = random_state.uniform(size=(len(sample.rows), how.n_components))
    return _from_responsibilities(how, sample, responsibilities / responsibilities.sum(axis=1, keepdims=True))


def _kmeans_plusplus(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> Moments:
    _, seeds = kmeans_plusplus(sample.rows, how.n_components, sample_weight=sample.weights, random_state=random_state)
    return _around_seeds(how, sample, seeds)


def _random_from_data(how: Initialization, sample: Sample, random_state: np.random.RandomState) -> Moments:
    weights = sample.weights
    # Equal weights have to draw what no weights draw, and `choice` draws otherwise where it is given probabilities.
    probabilities = None if weights is None or np.ptp(weights) == 0 else weights / weights.sum()
    seeds = random_state.choice(len(sample.rows), size=how.n_components, replace=False, p=probabilities)
    return _around_seeds(how, sample, seeds)


def _around_seeds(how: Initialization, sample: Sample, seeds: Array) -> Moments:
    means = sample.rows[seeds].astype(np.float64)
    scaled = (sample.rows - sample.frame.center) / sample.frame.scale
    nearest = pairwise_distances_argmin(scaled, scaled[seeds])
    weights = np.ones(len(scaled)) if sample.weights is None else sample.weights
    around_zero = Frame(np.zeros_like(sample.frame.center), sample.frame.scale)
    statistics = statistics_of_responsibilities(
        how.structure, sample.rows - means[nearest], weights[:, None], around_zero
    )
    _, _, covariances = estimate(how.structure, statistics, how.reg_covar)
    equal = np.full(how.n_components, 1 / how.n_components)
    return equal, means, how.structure.repeat(covariances, how.n_components)


METHODS: dict[str, Callable[[Initialization, Sample, np.random.RandomState], Moments]] = {
    "kmeans": _kmeans,
    "k-means++": _kmeans_plusplus,
    "random": _random,
    "random_from_data": _random_from_data,
}
"""Every method by its name, which is scikit-learn's ``init_params``."""
