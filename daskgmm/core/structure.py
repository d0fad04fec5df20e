"""Covariance structures: a kind of matrix, and how the components share it.

Matrices stand on a leading axis of length L: one for each component, L = K, or one that all components share, L = 1.
What depends on sharing is written once, in `CovarianceStructure`, by broadcasting over that axis; what depends on the
kind of matrix is left to its subclasses, one for each kind (`daskgmm.core.matrices`).

A covariance matrix that is shared makes the quadratic term of the log-joint the same for every component. The term
cancels in the responsibilities, so no feature has to carry it, and the second moments Σ r x xᵀ = Σ x xᵀ do not depend
on the parameters: one pass computes them for the whole fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from ..errors import IllDefinedCovarianceError

Array = np.ndarray[Any, np.dtype[Any]]

_NO_TERM = np.empty(0, np.intp)


@dataclass(frozen=True)
class CovarianceStructure(ABC):
    """The covariance matrices of a mixture; a subclass for each kind of matrix.

    K is the number of components, L the number of matrices, D the number of features, P the number of second moments
    of a matrix, B the rows of a block. Precisions are carried as factors U with Σ⁻¹ = U Uᵀ. Instances hold no state
    but their name and how matrices are shared.
    """

    name: str
    """Value of ``covariance_type``."""

    shared: bool = False
    """All components have one matrix; otherwise each has its own."""

    has_matrices: ClassVar[bool] = False
    """True where covariances are matrices, which may have entries off their diagonals."""

    # ================ what depends on sharing

    # ---- shapes and counts

    @final
    def n_matrices(self, n_components: int) -> int:
        """L: the length of the axis that matrices stand on."""
        return 1 if self.shared else n_components

    @final
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances`` and of ``precisions_cholesky``."""
        return self.n_matrices(n_components), *self.matrix_shape(n_features)

    @final
    def second_shape(self, n_components: int, n_features: int) -> tuple[int, int]:
        """Shape of the second moments in the sufficient statistics, (L, P)."""
        return self.n_matrices(n_components), self.n_moments(n_features)

    @final
    def prior_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of a covariance that serves all components as prior."""
        return self.matrix_shape(n_features)

    @final
    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of all covariances together."""
        return self.n_matrices(n_components) * self.n_free(n_features)

    # ---- the shapes that scikit-learn's users see

    @final
    def attribute_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances_``, ``precisions_`` and ``precisions_cholesky_``, as in scikit-learn.

        A matrix that is shared stands there without the leading axis; one variance that is shared is an array of one.
        """
        shape = self.covariance_shape(n_components, n_features)
        return shape[1:] if self.shared and len(shape) > 1 else shape

    @final
    def to_attribute(self, matrices: Array) -> Array:
        """Covariances, precisions or factors in the shape of an attribute."""
        return matrices[0] if self.shared and matrices.ndim > 1 else matrices

    @final
    def from_attribute(self, values: Array, n_components: int, n_features: int) -> Array:
        """Inverse of `to_attribute`, of an array in the `attribute_shape`."""
        return values.reshape(self.covariance_shape(n_components, n_features))

    @final
    def counts_attribute_shape(self, n_components: int) -> tuple[int, ...]:
        """Shape of an attribute that has one number for each matrix, such as ``degrees_of_freedom_``."""
        return () if self.shared else (n_components,)

    # ---- components and their matrices

    @final
    def of(self, matrices: Array, component: int) -> Array:
        """The component's own matrix, or the one that it shares."""
        return np.asarray(matrices[0 if self.shared else component])

    @final
    def take(self, matrices: Array, components: Array) -> Array:
        """Matrices of the mixture of these components, in their order; one may stand there twice."""
        return matrices if self.shared else matrices[components]

    @final
    def matrix_counts(self, soft_counts: Array) -> Array:
        """Rows that speak for each matrix, (L,), from those of each component, (K,); the mean for a shared matrix."""
        return np.asarray(soft_counts.mean(keepdims=True)) if self.shared else soft_counts

    @final
    def matrix_weights(self, weights: Array) -> Array:
        """Share of the rows that each matrix describes, (L,), from the components' weights, (K,)."""
        return weights.sum(keepdims=True) if self.shared else weights

    @final
    def multiply(self, covariances: Array, factors: Array) -> Array:
        """Covariances times one factor for each matrix, (L,)."""
        return covariances * factors.reshape(-1, *[1] * (covariances.ndim - 1))

    @final
    def precisions_cholesky(self, covariances: Array) -> Array:
        """Factor U of every precision, from the covariances.

        Raises
        ------
        IllDefinedCovarianceError
            If a covariance is not finite and positive definite.
        """
        factors, good = self.invert(covariances)
        if not good.all():
            raise IllDefinedCovarianceError(() if self.shared else tuple(np.flatnonzero(~good).tolist()))
        return factors

    @final
    def correlate(self, covariances: Array, component: int, noise: Array) -> Array:
        """Turn standard normal rows, (n, D), into rows with the component's covariance and mean zero."""
        return self.color_rows(self.of(covariances, component), noise)

    # ---- the E-step on quadratic features

    @final
    def n_quadratic(self, n_features: int) -> int:
        """Quadratic features of a row: none where they cancel."""
        return 0 if self.shared else self.n_moments(n_features)

    @final
    def fill_quadratic(self, z: Array, out: Array) -> None:
        """Write the quadratic features of a block ``z`` (D, B) to ``out`` (n_quadratic, B)."""
        if not self.shared:
            self.fill_moments(z, out)

    @final
    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        """The features of `fill_quadratic` as a list of terms: z_left · z_right is added to a feature.

        Returns
        -------
        left, right, feature : arrays of integers, one entry for each term
            Terms of one feature are next to each other.
        """
        return (_NO_TERM, _NO_TERM, _NO_TERM) if self.shared else self.moment_terms(n_features)

    @final
    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        """Coefficients of the quadratic features in the log-density, shape (L, n_quadratic)."""
        return np.empty((1, 0)) if self.shared else self.moment_coefficients(precisions_cholesky)

    @final
    def common_quadratic(self, precisions_cholesky: Array, second_moments: Array) -> float:
        """Log-likelihood that the features leave out, the same for every component, summed over all rows."""
        return float(np.vdot(self.moment_coefficients(precisions_cholesky), second_moments)) if self.shared else 0.0

    @final
    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        """Log-density that the features leave out of each row of a block (D, B), shape (B,); None for nothing."""
        if not self.shared:
            return None
        factor = precisions_cholesky[0].astype(z.dtype)
        return np.asarray(-0.5 * self.squared_lengths(factor, z, np.empty_like(z)))

    # ---- the E-step on whitened residuals (the precise twin)

    @final
    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        """‖Uᵀ(x − μ)‖² of every column of ``residual`` (D, B), shape (B,). ``work`` is (D, B) and is overwritten."""
        return self.squared_lengths(self.of(precisions_cholesky, component), residual, work)

    @final
    def add_scatter(self, second_moments: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        """Add Σ_b w_b (x_b − μ)(x_b − μ)ᵀ of a block to ``second``, in place. ``work`` is (D, B) and is overwritten."""
        second_moments[0 if self.shared else component] += self.scatter(residual, weights, work)

    # ---- the M-step

    @final
    def central_covariances(self, second_moments: Array, soft_counts: Array, offsets: Array) -> Array:
        """Covariances about the new means from second moments about the reference.

        Parameters
        ----------
        second_moments : array
            Second moments about the reference, `second_shape`.
        soft_counts : array of shape (K,)
        offsets : array of shape (K, D)
            New means minus the reference.
        """
        counts = self._by_matrix(soft_counts)
        totals = counts.sum(axis=1, keepdims=True)
        moments = second_moments / totals - self.moments(self._by_matrix(offsets), counts / totals)
        return self.from_moments(moments, offsets.shape[1])

    @final
    def outer_products(self, vectors: Array, weights: Array) -> Array:
        """w_k v_k v_kᵀ for ``vectors`` (K, D) and ``weights`` (K,), as far as covariances can hold it.

        What matrices share is averaged: over the components for one matrix, over the features for one variance.
        """
        shares = self._by_matrix(weights)
        moments = self.moments(self._by_matrix(vectors), shares) / shares.shape[1]
        return self.from_moments(moments, vectors.shape[1])

    @final
    def divide_second(self, second_moments: Array, n_components: int) -> Array:
        """Second moments of ``n_components`` equal components that together are those of one."""
        return second_moments if self.shared else np.repeat(second_moments / n_components, n_components, axis=0)

    def _by_matrix(self, values: Array) -> Array:
        """Values of components, (K, …), by the matrix that describes them: (L, K / L, …)."""
        return values[None] if self.shared else values[:, None]

    # ================ what depends on the kind of matrix

    # ---- shapes and counts

    @abstractmethod
    def matrix_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of one covariance, and of its factor."""

    @abstractmethod
    def n_free(self, n_features: int) -> int:
        """Free parameters of one covariance."""

    @abstractmethod
    def n_moments(self, n_features: int) -> int:
        """P: the second moments of the rows that one covariance is estimated from."""

    # ---- covariances, precisions, factors: all of shape (L, *matrix_shape)

    @abstractmethod
    def invert(self, covariances: Array) -> tuple[Array, Array]:
        """Factors U of the inverses, and which covariances are finite and positive definite, (L,)."""

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
        """Logarithm of det U of every matrix, shape (L,)."""

    @abstractmethod
    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """Variance of every feature in every component, shape (K, D)."""

    @abstractmethod
    def color_rows(self, covariance: Array, noise: Array) -> Array:
        """Turn standard normal rows, (n, D), into rows with that covariance, `matrix_shape`, and mean zero."""

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

    # ---- second moments

    @abstractmethod
    def fill_moments(self, z: Array, out: Array) -> None:
        """Write the products that second moments are sums of, for each row of a block (D, B), to ``out`` (P, B)."""

    @abstractmethod
    def moment_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        """The products of `fill_moments` as a list of terms, see `quadratic_terms`."""

    @abstractmethod
    def moment_coefficients(self, precisions_cholesky: Array) -> Array:
        """Coefficients of the second moments in the log-likelihood, shape (L, P)."""

    @abstractmethod
    def block_moments(self, z: Array, weights: Array | None) -> Array:
        """Second moments of all rows of a block (D, B), shape (P,), as the products of a fast kernel are made."""

    @abstractmethod
    def scatter(self, residual: Array, weights: Array, work: Array) -> Array:
        """Second moments of a block (D, B), shape (P,), in full precision. ``work`` is (D, B) and is overwritten."""

    @abstractmethod
    def moments(self, vectors: Array, weights: Array) -> Array:
        """Second moments Σ_g w v vᵀ of groups of vectors, (L, G, D), with weights, (L, G): shape (L, P)."""

    @abstractmethod
    def from_moments(self, moments: Array, n_features: int) -> Array:
        """Covariances whose second moments are the ``moments`` (L, P) of one row."""

    # ---- vectors and factors

    @abstractmethod
    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Σ_k⁻¹ v_k for every component, shape (K, D)."""

    @abstractmethod
    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        """Largest factor by which rounding grows in θ_k · T(x), for means and factors about the reference point.

        It is λmax(Σ_k⁻¹) (‖μ_k‖ + 3 √λmax(Σ_k))², the largest over the components; where the features do not mix
        (diag) it is the sum of the same expression over the features.
        """

    @abstractmethod
    def squared_lengths(self, factor: Array, residual: Array, work: Array) -> Array:
        """‖Uᵀ v‖² of every column of ``residual`` (D, B), shape (B,), for one factor. ``work`` is overwritten."""

    @abstractmethod
    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        """Uᵀ v of all vectors, (K, B, D), of every component."""

    # ---- differences between mixtures, in units of one of them

    @abstractmethod
    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """U_kᵀ v_k for every component, shape (K, D): vectors in the components' own standard deviations."""

    @abstractmethod
    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Inverse of `whiten`."""

    @abstractmethod
    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        """Factors as seen from those at ``origin``: any real numbers, one row for each matrix.

        They are zero at the origin, and do not change with the units of the data. To leading order, half a row's
        squared length is the Kullback-Leibler divergence between normal distributions with the two covariances.
        """

    @abstractmethod
    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        """Inverse of `relative_coordinates`."""
