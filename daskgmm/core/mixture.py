"""Parameters of a mixture as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

_SAMPLE_BYTES = 4 << 20
"""Size of the rows that are drawn together."""

_ROUNDING = 1e-12
"""Largest error of a sum of weights in double precision."""


@dataclass(frozen=True)
class MixtureParameters:
    """Weights, means and covariances of a Gaussian mixture, p(x) = Σ_k w_k N(x; μ_k, Σ_k), in double precision."""

    structure: CovarianceStructure

    weights: Array
    """Shape (K,), non-negative, summing to one."""

    means: Array
    """Shape (K, D)."""

    covariances: Array
    """Covariances in the shape of the structure's `covariance_shape`."""

    precisions_cholesky: Array
    """Factors of the inverses of the covariances, same shape."""

    expected_log_weights: Array | None = None
    """Expected log w_k, shape (K,), for E-steps under a distribution over parameters; None: E-steps take log w_k."""

    @classmethod
    def from_covariances(
        cls, structure: CovarianceStructure, weights: Array, means: Array, covariances: Array
    ) -> MixtureParameters:
        """Make parameters from covariances, and compute the precision factors.

        Raises
        ------
        IllDefinedCovarianceError
            If a covariance is not positive definite.
        """
        return cls(structure, weights, means, covariances, structure.precisions_cholesky(covariances))

    @classmethod
    def from_precisions_cholesky(
        cls, structure: CovarianceStructure, weights: Array, means: Array, precisions_cholesky: Array
    ) -> MixtureParameters:
        """Make parameters from precision factors, and compute the covariances."""
        return cls(structure, weights, means, structure.covariances(precisions_cholesky), precisions_cholesky)

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """Number of features, D."""
        return int(self.means.shape[1])

    @property
    def n_free(self) -> int:
        """Number of free parameters, as the information criteria count them."""
        return free_parameters(self.structure, self.n_components, self.n_features)

    def fits(self, dtype: Any) -> bool:
        """Test whether variances, precisions and means are within the range of a floating dtype."""
        limits, shape = np.finfo(dtype), (self.n_components, self.n_features)
        precisions = self.structure.precisions(self.precisions_cholesky)
        squares = (self.structure.marginal_variances(matrices, *shape) for matrices in (self.covariances, precisions))
        in_range = all(((values >= limits.tiny) & (values <= limits.max)).all() for values in squares)
        return bool(in_range and (np.abs(self.means) <= limits.max).all())

    @property
    def log_constants(self) -> Array:
        """Terms of the log-joints that do not depend on the row: log w_k − ½ log det(2π Σ_k), shape (K,).

        −∞ for a component of weight zero. `expected_log_weights`, if given, replace log w_k.
        """
        log_det = self.structure.log_det_cholesky(self.precisions_cholesky, self.n_features)
        log_weights = self.expected_log_weights
        if log_weights is None:
            with np.errstate(divide="ignore"):
                log_weights = np.log(self.weights)
        return np.asarray(log_weights + log_det - 0.5 * self.n_features * math.log(2 * math.pi))

    def sample(self, n_samples: int, random_state: np.random.RandomState) -> tuple[Array, Array]:
        """Draw rows from the mixture, grouped by component, and return them with the component of each.

        Parameters
        ----------
        n_samples : int
        random_state : numpy.random.RandomState

        Returns
        -------
        rows : array of shape (n_samples, D)
        labels : array of shape (n_samples,)
        """
        rows, labels = np.empty((n_samples, self.n_features)), np.empty(n_samples, np.int64)
        stop = 0
        for block, component in self.sample_blocks(n_samples, random_state):
            start, stop = stop, stop + len(block)
            rows[start:stop], labels[start:stop] = block, component
        return rows, labels

    def sample_blocks(self, n_samples: int, random_state: np.random.RandomState) -> Iterator[tuple[Array, int]]:
        """Draw the rows of `sample`, to the last bit, in blocks of a few megabytes of one component each.

        Parameters
        ----------
        n_samples : int
        random_state : numpy.random.RandomState

        Yields
        ------
        rows : array of shape (n, D)
        component : int
        """
        longest = max(1, _SAMPLE_BYTES // (8 * self.n_features))
        total = self.weights.sum()
        # NumPy refuses a larger sum, as weights in single precision may have; other weights keep all their bits.
        weights = self.weights / total if abs(total - 1) > _ROUNDING else self.weights
        for component, count in enumerate(random_state.multinomial(n_samples, weights).tolist()):
            for start in range(0, count, longest):
                noise = random_state.standard_normal((min(longest, count - start), self.n_features))
                yield self.means[component] + self.structure.correlate(self.covariances, component, noise), component


def free_parameters(structure: CovarianceStructure, n_components: int, n_features: int) -> int:
    """Number of free parameters of a mixture: weights that sum to one, means, covariances."""
    covariances = structure.n_covariance_parameters(n_components, n_features)
    return n_components - 1 + n_components * n_features + covariances
