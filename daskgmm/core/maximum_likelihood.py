"""M-step of maximum likelihood: sufficient statistics -> parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import IllDefinedCovarianceError
from .estimation import Estimation
from .mixture import MixtureParameters
from .reseeding import empty_components, reseed
from .statistics import SufficientStatistics
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]


def estimate(
    structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float
) -> tuple[Array, Array, Array]:
    """Weights, means and covariances that maximise the expected complete-data log-likelihood.

    Dempster, Laird & Rubin (1977), section 4.3.

    Parameters
    ----------
    structure : CovarianceStructure
    statistics : SufficientStatistics
    reg_covar : float
        Added to the variances, in squared units of the data.

    Returns
    -------
    weights : array of shape (K,)
    means : array of shape (K, D)
    covariances : array
        Array in the shape of the structure's `covariance_shape`. Not checked: factoring them finds collapsed
        components.
    """
    soft_counts, offsets, covariances = statistics.central_moments(structure, reg_covar)
    return soft_counts / soft_counts.sum(), statistics.reference + offsets, covariances


def maximize(structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float) -> MixtureParameters:
    """Run the M-step: `estimate` parameters, and factor their covariances.

    Raises
    ------
    IllDefinedCovarianceError
        If a component collapsed.
    """
    return MixtureParameters.from_covariances(structure, *estimate(structure, statistics, reg_covar))


def complete_log_likelihood(parameters: MixtureParameters, statistics: SufficientStatistics) -> float:
    """Compute the expected complete-data log-likelihood of statistics, which the M-step maximises.

    Constants that do not depend on the parameters are left out for statistics whose soft counts sum to zero.
    """
    structure = parameters.structure
    central = statistics.about(structure, parameters.means)
    coefficients = structure.moment_coefficients(
        structure.scale_cholesky(parameters.precisions_cholesky, central.scale)
    )
    constants = parameters.log_constants
    return float(central.soft_counts @ constants + np.vdot(coefficients, central.second_moments))


@dataclass(frozen=True)
class GivenParameters:
    """First parameters that the user has given; None for parameters to be estimated."""

    weights: Array | None = None
    means: Array | None = None
    precisions_cholesky: Array | None = None

    @property
    def is_empty(self) -> bool:
        """Test whether the user has given nothing."""
        return self.weights is None and self.means is None and self.precisions_cholesky is None


@dataclass(frozen=True)
class MaximumLikelihood(Estimation[MixtureParameters]):
    """M-step of maximum likelihood: the state is the mixture's parameters, the objective the log-likelihood."""

    measure: ClassVar[str] = "log-likelihood"

    structure: CovarianceStructure
    reg_covar: float
    """Added to every variance at each M-step, in squared units of the data."""
    given: GivenParameters = GivenParameters()

    def begin(self, draw: Callable[[], SufficientStatistics]) -> MixtureParameters:
        weights, means, cholesky = self.given.weights, self.given.means, self.given.precisions_cholesky
        if weights is not None and means is not None and cholesky is not None:
            return MixtureParameters.from_precisions_cholesky(self.structure, weights, means, cholesky)
        if cholesky is not None:
            estimated = estimate(self.structure, draw(), self.reg_covar)
            weights, means = _given_or(weights, estimated[0]), _given_or(means, estimated[1])
            return MixtureParameters.from_precisions_cholesky(self.structure, weights, means, cholesky)
        first = self._first(draw())
        weights, means = _given_or(weights, first.weights), _given_or(means, first.means)
        return MixtureParameters(self.structure, weights, means, first.covariances, first.precisions_cholesky)

    def _first(self, statistics: SufficientStatistics) -> MixtureParameters:
        """Run the M-step of a start; half of the widest component replaces a cluster of too few rows."""
        try:
            return self.update(statistics)
        except IllDefinedCovarianceError as error:
            usable = self.reseed(statistics, error.components) if error.components else None
            if usable is None:
                raise
            return usable

    def update(self, statistics: SufficientStatistics) -> MixtureParameters:
        return maximize(self.structure, statistics, self.reg_covar)

    @property
    def relocates(self) -> bool:
        """Permission to move components, unless the user gave all first parameters, and so asked for their optimum."""
        given = self.given
        return given.weights is None or given.means is None or given.precisions_cholesky is None

    def empty(self, statistics: SufficientStatistics) -> tuple[int, ...]:
        return empty_components(statistics)

    def reseed(self, statistics: SufficientStatistics, lost: tuple[int, ...]) -> MixtureParameters | None:
        return reseed(self.structure, statistics, self.reg_covar, lost)

    def counts(self, state: MixtureParameters, weight_sum: float) -> Array:
        return state.weights * weight_sum

    def parameters(self, state: MixtureParameters) -> MixtureParameters:
        return state

    def bound(self, statistics: SufficientStatistics, updated: MixtureParameters) -> float:
        """Mean log-likelihood of the parameters before the M-step."""
        return statistics.mean_log_likelihood


def _given_or(given: Array | None, estimated: Array) -> Array:
    return estimated if given is None else given
