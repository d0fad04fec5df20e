"""Marginal and conditional distributions of a mixture: mixtures of the components' marginals and conditionals.

Given the features x, the other features y have the mixture with the weights w_k N(x; k) / Σ_j w_j N(x; j), the means
μ_y + B (x − μ_x) and the covariances Σ_yy − B Σ_xy of the components, where B = Σ_yx Σ_xx⁻¹ (Bishop, *Pattern
Recognition and Machine Learning*, 2006, equations (2.81) and (2.82)). All of this is read off one Cholesky factor of
each component, with x before y; no difference of covariances is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .mixture import MixtureParameters

Array = np.ndarray[Any, np.dtype[Any]]


def marginal(parameters: MixtureParameters, features: Array) -> MixtureParameters:
    """Mixture of some features, (d,), in the given order.

    Raises
    ------
    IllDefinedCovarianceError
        If a covariance of these features is not positive definite in double precision.
    """
    p = parameters
    covariances = np.ascontiguousarray(p.structure.select_features(p.covariances, features))
    return MixtureParameters.from_covariances(p.structure, p.weights, p.means[:, features], covariances)


@dataclass(frozen=True)
class Conditional:
    """Distribution of some features of a mixture given the others, prepared for any values of these."""

    given: MixtureParameters
    """Mixture of the q given features."""

    means: Array
    """Means of the r other features, (K, r)."""

    coefficients: Array
    """Matrices B of the regression of the other features on the given features, (L, r, q)."""

    factors: Array
    """Factors of the precisions of the other features under the condition, in their structure's shape."""

    @classmethod
    def of(cls, parameters: MixtureParameters, given: Array, others: Array) -> Conditional:
        """Prepare the distribution of the features ``others`` (r,) given the features ``given`` (q,).

        Raises
        ------
        IllDefinedCovarianceError
            If a covariance is not positive definite in double precision.
        """
        p = parameters
        ordered = marginal(p, np.concatenate([given, others]))
        split = p.structure.condition(ordered.precisions_cholesky, len(given), p.n_features)
        known = MixtureParameters(
            p.structure,
            p.weights,
            p.means[:, given],
            np.ascontiguousarray(p.structure.select_features(p.covariances, given)),
            np.ascontiguousarray(split.given_factors),
        )
        return cls(known, p.means[:, others], split.coefficients, np.ascontiguousarray(split.factors))

    def mixture(self, values: Array) -> MixtureParameters:
        """Mixture of the other features at given values, (q,).

        Raises
        ------
        ValueError
            If the values are so far from all components that their densities are not in the range of numbers, or so far
            from one that its mean is not.
        """
        given, structure = self.given, self.given.structure
        with np.errstate(over="ignore", invalid="ignore"):
            residuals = values - given.means
            means = self.means + (self.coefficients @ residuals[:, :, None])[:, :, 0]
        weights = _normalised(given.log_constants - 0.5 * _squared_distances(given, residuals))
        if not np.isfinite(means).all():
            raise ValueError(
                "the given values are so far from a component that the component's mean there is beyond the range of "
                "double precision. Check the units of the values."
            )
        return MixtureParameters.from_precisions_cholesky(structure, weights, means, self.factors)

    def expectation(self, rows: Array, responsibilities: Array, out: Array) -> None:
        """Write the mean of the other features of every row to ``out`` (n, r).

        Parameters
        ----------
        rows : array of shape (n, q)
            Given features.
        responsibilities : array of shape (n, K)
            Posterior probabilities of the components of `given` for these rows.
        out : array of shape (n, r)
        """
        total = responsibilities @ self.means
        if not self.coefficients.any():  # features are not correlated within components
            out[...] = total
            return
        coefficients = np.broadcast_to(self.coefficients, (len(self.means), *self.coefficients.shape[1:]))
        for k, (mean, slopes) in enumerate(zip(self.given.means, coefficients, strict=True)):
            total += (responsibilities[:, k, None] * (rows - mean)) @ slopes.T
        out[...] = total


def _squared_distances(mixture: MixtureParameters, residuals: Array) -> Array:
    """Squared distances ‖U_kᵀ v_k‖² of one residual for every component, (K, q) -> (K,)."""
    with np.errstate(over="ignore"):
        whitened = mixture.structure.whiten(mixture.precisions_cholesky, residuals)
        return np.asarray(np.square(whitened).sum(axis=1))


def _normalised(log_weights: Array) -> Array:
    largest = log_weights.max()
    if not np.isfinite(largest):
        raise ValueError(
            "the given values are so far from all components that the densities of all components there are beyond the "
            "range of double precision. Check the units of the values."
        )
    weights = np.exp(log_weights - largest)
    return np.asarray(weights / weights.sum())
