"""Variational M-step: sufficient statistics -> a distribution over the parameters (Bishop 2006, section 10.2).

Means and precisions of each component have a Gaussian-Wishart distribution, the weights a distribution of
`daskgmm.core.concentration`. With conjugate priors, the posterior follows from the sufficient statistics of maximum
likelihood. An E-step under the posterior needs E log w_k, E log det Λ_k and
E (x − μ_k)ᵀ Λ_k (x − μ_k) = D/β_k + ν_k (x − m_k)ᵀ W_k (x − m_k): the E-step of a mixture with means m_k, covariances
(ν_k W_k)⁻¹ and another constant for each component.

Structures other than ``full`` keep scikit-learn's conventions: they take the Wishart distribution's terms for full
matrices, and for a shared covariance the mean of the components' counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import digamma, gammaln

from ..errors import InvalidWeightsError
from .concentration import WeightDistribution
from .estimation import Estimation
from .mixture import MixtureParameters
from .statistics import SufficientStatistics
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Priors:
    """Prior distribution of the parameters. Counts are in units of rows."""

    weight_concentration: float
    """Concentration α₀ of the weights' distribution."""

    mean_precision: float
    """Number β₀ of rows that the prior mean is worth."""

    mean: Array
    """Prior mean m₀, shape (D,)."""

    degrees_of_freedom: float
    """Degrees of freedom ν₀ > D − 1."""

    covariance: Array
    """Scale matrix W₀⁻¹ of the inverse Wishart distribution, in the shape of the structure's `prior_shape`."""


@dataclass(frozen=True)
class GivenPriors:
    """Priors that the user has given; None for priors that follow from the data or their shape, as in scikit-learn."""

    weight_concentration: float | None = None
    mean_precision: float | None = None
    mean: Array | None = None
    degrees_of_freedom: float | None = None
    covariance: Array | None = None

    def complete(
        self,
        structure: CovarianceStructure,
        n_components: int,
        mean: Array,
        second_moments: Array | None,
        weight_sum: float,
    ) -> Priors:
        """Complete the priors from the moments of all data.

        Parameters
        ----------
        structure : CovarianceStructure
        n_components : int
        mean : array of shape (D,)
        second_moments : array or None
            Second moments about the mean of one component that holds all rows, in the shape of the structure's
            `moments_shape`; not needed if the covariance is given.
        weight_sum : float
            Number of rows, where a weight of 2 counts as two rows: the covariance's denominator is the sum less one.

        Raises
        ------
        InvalidWeightsError
            If the weights sum to no more than one row.
        """
        covariance = self.covariance
        if covariance is None:
            if second_moments is None:
                raise TypeError("second_moments is None; without a prior covariance, second moments are needed")
            covariance = _empirical_covariance(structure, mean, second_moments, weight_sum)
        return Priors(
            1 / n_components if self.weight_concentration is None else self.weight_concentration,
            1.0 if self.mean_precision is None else self.mean_precision,
            mean if self.mean is None else self.mean,
            float(len(mean)) if self.degrees_of_freedom is None else self.degrees_of_freedom,
            covariance,
        )


def _empirical_covariance(
    structure: CovarianceStructure, mean: Array, second_moments: Array, weight_sum: float
) -> Array:
    if weight_sum <= 1:
        raise InvalidWeightsError(
            f"sample_weight: the weights sum to {weight_sum:g}, which counts as no more than one row, so the data have "
            "no covariance to take as prior. Scale the weights so that they sum to the number of rows, or give "
            "covariance_prior."
        )
    covariance = structure.central_covariances(second_moments, np.array([weight_sum - 1]), np.zeros((1, len(mean))))
    return covariance.reshape(structure.prior_shape(len(mean)))


@dataclass(frozen=True)
class Posterior:
    """Distribution over the parameters of a mixture."""

    structure: CovarianceStructure
    weight_distribution: WeightDistribution
    priors: Priors | None
    """Priors of this posterior; None if unknown."""

    weight_concentration: Array
    """Parameters of the weight distribution, in the shape of its `shape`."""

    mean_precision: Array
    """Precisions β_k of the means, shape (K,)."""

    means: Array
    """Means m_k, shape (K, D)."""

    degrees_of_freedom: Array
    """Degrees of freedom ν, one number for each covariance matrix."""

    covariances: Array
    """Inverses (ν_k W_k)⁻¹ of the mean precisions, in the shape of the structure's `covariance_shape`."""

    precisions_cholesky: Array
    """Factors of the mean precisions, same shape."""

    def parameters(self) -> MixtureParameters:
        """Make the mixture that an E-step under this distribution is computed with."""
        d = self.means.shape[1]
        log_weights = self.weight_distribution.expected_log_weights(self.weight_concentration)
        return MixtureParameters(
            self.structure,
            self.weight_distribution.mean_weights(self.weight_concentration),
            self.means,
            self.covariances,
            self.precisions_cholesky,
            # Bishop (10.64) and (10.65), less the determinant of the mean precision, which the mixture contributes.
            log_weights + 0.5 * (_log_determinant(self.degrees_of_freedom, d) - d / self.mean_precision),
        )

    @property
    def log_volume(self) -> float:
        """Logarithm of the integral of the density without its constants and without powers of π."""
        k, d = self.means.shape
        log_det = self.structure.log_det_cholesky(self.precisions_cholesky, d)
        matrices = np.broadcast_to(_wishart_volume(self.degrees_of_freedom, log_det, d), k)
        means = -0.5 * d * np.log(self.mean_precision)
        return self.weight_distribution.log_volume(self.weight_concentration) + float((matrices + means).sum())


def _log_determinant(degrees_of_freedom: Array, n_features: int) -> Array:
    """Difference E log det Λ − log det E Λ of a Wishart distribution (Bishop B.81)."""
    terms = digamma(0.5 * (degrees_of_freedom - _each(n_features, degrees_of_freedom))).sum(axis=0)
    return np.asarray(terms + n_features * np.log(2 / degrees_of_freedom))


def _wishart_volume(degrees_of_freedom: Array, log_det_cholesky: Array, n_features: int) -> Array:
    """Logarithm −log B(W, ν) without powers of π (Bishop B.79); det W from the factor of the mean precision ν W."""
    terms = gammaln(0.5 * (degrees_of_freedom - _each(n_features, degrees_of_freedom))).sum(axis=0)
    log_det = log_det_cholesky + 0.5 * n_features * np.log(2 / degrees_of_freedom)
    return np.asarray(terms + degrees_of_freedom * log_det)


def _each(n_features: int, like: Array) -> Array:
    """Numbers 0, …, D − 1 along a new first axis."""
    return np.arange(n_features).reshape(-1, *[1] * like.ndim)


@dataclass(frozen=True)
class Variational(Estimation[Posterior]):
    """M-step of variational inference: the state is a posterior, the objective a lower bound of the evidence."""

    measure: ClassVar[str] = "lower bound"

    structure: CovarianceStructure
    weight_distribution: WeightDistribution
    priors: Priors
    reg_covar: float
    """Added to every empirical variance at each M-step, in squared units of the data."""

    @property
    def leaves_empty(self) -> bool:
        return True

    def update(self, statistics: SufficientStatistics) -> Posterior:
        structure, prior = self.structure, self.priors
        soft_counts, offsets, covariances = statistics.central_moments(structure, self.reg_covar)
        counts = structure.matrix_counts(soft_counts)
        # Differences to the prior mean, which lies near the data: means themselves would lose digits far from zero.
        differences = offsets + (statistics.reference - prior.mean)
        mean_precision = prior.mean_precision + soft_counts  # Bishop (10.60)
        means = prior.mean + (soft_counts / mean_precision)[:, None] * differences  # (10.61)
        degrees_of_freedom = np.asarray(prior.degrees_of_freedom + counts)  # (10.63)
        scales = (
            prior.covariance
            + structure.multiply(covariances, counts)
            + structure.outer_products(differences, soft_counts * prior.mean_precision / mean_precision)
        )  # (10.62)
        normalized = structure.multiply(scales, 1 / degrees_of_freedom)
        return Posterior(
            structure,
            self.weight_distribution,
            prior,
            self.weight_distribution.posterior(prior.weight_concentration, soft_counts),
            mean_precision,
            means,
            degrees_of_freedom,
            normalized,
            structure.precisions_cholesky(normalized),
        )

    def counts(self, state: Posterior, weight_sum: float) -> Array:
        return state.mean_precision - self.priors.mean_precision

    def parameters(self, state: Posterior) -> MixtureParameters:
        return state.parameters()

    def bound(self, statistics: SufficientStatistics, updated: Posterior) -> float:
        """Lower bound of the log-evidence per unit of weight, without terms of the priors and the data alone.

        Bishop (10.70) for the posterior that fits the responsibilities best: all terms that are linear in the
        statistics cancel, and the responsibilities' entropy and the posterior's volume are left.
        """
        return (statistics.entropy + updated.log_volume) / statistics.weight_sum
