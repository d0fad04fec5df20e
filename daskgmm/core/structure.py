"""What a covariance structure has to answer: the interface behind which full, tied, diag and spherical stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class CovarianceStructure(ABC):
    """What depends on the shape of the covariance matrices, and nothing else.

    K is the number of components, D the number of features, B the rows of a block. Instances hold no state.
    """

    name: ClassVar[str]

    has_matrices: ClassVar[bool] = False
    """True where covariances are matrices, which may have entries off their diagonals."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)  # also of one that was pickled, or copied

    def __hash__(self) -> int:
        return hash(type(self))

    # ---- shapes and counts

    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances``, ``precisions`` and ``precisions_cholesky``."""

    @abstractmethod
    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the second moments in the sufficient statistics."""

    @abstractmethod
    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of all covariances together."""

    # ---- covariances, precisions, factors

    @abstractmethod
    def precisions_cholesky(self, covariances: Array) -> Array:
        """Factor U of every precision, from the covariances.

        Raises
        ------
        IllDefinedCovarianceError
            If a covariance is not finite and positive definite.
        """

    @abstractmethod
    def factor_precisions(self, precisions: Array) -> Array:
        """Factor U of every precision, from the precisions (positive definite, checked by `check_precisions`)."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """U Uᵀ."""

    @abstractmethod
    def covariances(self, precisions_cholesky: Array) -> Array:
        """(U Uᵀ)⁻¹."""

    @abstractmethod
    def check_precisions(self, precisions: Array) -> None:
        """Raise ValueError unless every precision is symmetric and positive definite."""

    def is_factor(self, roots: Array) -> bool:
        """Test square roots R of precisions R Rᵀ for the form that `precisions_cholesky` gives them."""
        return bool((roots > 0).all())

    @abstractmethod
    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        """Logarithm of det U of every component, shape (K,) or broadcastable to it."""

    @abstractmethod
    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """Variance of every feature in every component, shape (K, D)."""

    def take(self, covariances: Array, components: Array) -> Array:
        """Covariances of the mixture of these components, in their order; one may stand there twice."""
        return covariances[components]

    @abstractmethod
    def color(self, covariances: Array, component: int, noise: Array) -> Array:
        """Turn standard normal rows, (n, D), into rows with the component's covariance and mean zero."""

    # ---- change of units: z = x / scale

    def frame_scale(self, scale: Array) -> Array:
        """Scale of each feature that the structure can use, from the features' own scales, shape (D,)."""
        return scale

    @abstractmethod
    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        """Factors of the precisions of z = x / scale."""

    @abstractmethod
    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        """Covariances of x = z · scale from those of z."""

    @abstractmethod
    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        """Covariances with ``ridge`` added to every variance, in place."""

    # ---- the E-step on quadratic features

    @abstractmethod
    def n_quadratic(self, n_features: int) -> int:
        """Quadratic features of a row."""

    @abstractmethod
    def fill_quadratic(self, z: Array, out: Array) -> None:
        """Write the quadratic features of a block ``z`` (D, B) to ``out`` (n_quadratic, B)."""

    @abstractmethod
    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        """The same as a list of terms: z_left · z_right is added to a feature, whose terms are next to each other.

        Returns
        -------
        left, right, feature : arrays of integers, one entry for each term
        """

    @abstractmethod
    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        """Coefficients of the quadratic features in the log-density, shape (K, n_quadratic)."""

    @abstractmethod
    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Σ_k⁻¹ v_k for every component, shape (K, D)."""

    @abstractmethod
    def common_quadratic(self, precisions_cholesky: Array, second: Array) -> float:
        """Log-likelihood that the features leave out, the same for every component, summed over all rows."""

    @abstractmethod
    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        """The same for each row of a block (D, B), shape (B,); None where the features leave nothing out."""

    @abstractmethod
    def common_second(self, z: Array, weights: Array | None) -> Array | None:
        """Second moments of a block (D, B) where no quadratic feature carries them; None where one does."""

    @abstractmethod
    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        """Largest factor by which rounding grows in θ_k · T(x), for means and factors about the reference point.

        It is λmax(Σ_k⁻¹) (‖μ_k‖ + 3 √λmax(Σ_k))², the largest over the components; where the features do not mix
        (diag) it is the sum of the same expression over the features.
        """

    # ---- the E-step on whitened residuals (the precise twin)

    @abstractmethod
    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        """‖Uᵀ(x − μ)‖² of every column of ``residual`` (D, B), shape (B,). ``work`` is (D, B) and is overwritten."""

    @abstractmethod
    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        """Uᵀ v of all vectors, (K, B, D), of every component."""

    @abstractmethod
    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        """Add Σ_b w_b (x_b − μ)(x_b − μ)ᵀ of a block to ``second``, in place. ``work`` is (D, B) and is overwritten."""

    # ---- the M-step

    @abstractmethod
    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        """Covariances about the new means from second moments about the reference.

        Parameters
        ----------
        second : array
            Second moments about the reference, `second_shape`.
        soft_counts : array of shape (K,)
        offsets : array of shape (K, D)
            New means minus the reference.
        """

    def divide_second(self, second: Array, n_components: int) -> Array:
        """Second moments of ``n_components`` equal components that together are those of one."""
        return np.repeat(second / n_components, n_components, axis=0)

    # ---- differences between mixtures, in units of one of them

    @abstractmethod
    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """U_kᵀ v_k for every component, shape (K, D): vectors in the components' own standard deviations."""

    @abstractmethod
    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Inverse of `whiten`."""

    def matrix_weights(self, weights: Array) -> Array:
        """Share of the rows that each covariance matrix describes, from the components' weights, (K,)."""
        return weights

    @abstractmethod
    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        """Factors as seen from those at ``origin``: any real numbers, one row for each covariance matrix there is.

        They are zero at the origin, and do not change with the units of the data. To leading order, half a row's
        squared length is the Kullback-Leibler divergence between normal distributions with the two covariances.
        """

    @abstractmethod
    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        """Inverse of `relative_coordinates`."""

    # ---- the variational M-step: one Wishart distribution for each covariance matrix that there is

    def prior_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of a covariance that serves all components as prior."""
        return self.covariance_shape(1, n_features)[1:]

    def matrix_counts(self, soft_counts: Array) -> Array:
        """Rows that speak for each covariance matrix, from those of each component, (K,)."""
        return soft_counts

    def multiply(self, covariances: Array, factors: Array) -> Array:
        """Covariances times one factor for each matrix, in the shape of `matrix_counts`."""
        return covariances * factors.reshape(-1, *[1] * (covariances.ndim - 1))

    @abstractmethod
    def outer_products(self, vectors: Array, weights: Array) -> Array:
        """w_k v_k v_kᵀ for ``vectors`` (K, D) and ``weights`` (K,), as far as covariances can hold it.

        What matrices share is averaged: over the components for one matrix, over the features for one variance.
        """
