"""Covariance structures: a kind of matrix, and how the components share it.

Arrays of matrices have a leading axis of length L: L = K for a matrix of each component, L = 1 for one that all
components share. `CovarianceStructure` implements sharing once, by broadcasting over that axis; each of its subclasses
implements one kind of matrix (`daskgmm.core.matrices`).

With a shared covariance matrix, the quadratic term of the log-joint is the same for every component. The term cancels
in the responsibilities, so no feature has to carry the term, and the second moments Σ r x xᵀ = Σ x xᵀ do not depend on
the parameters: one pass computes them for the whole fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from ..errors import IllDefinedCovarianceError

Array = np.ndarray[Any, np.dtype[Any]]

_NO_TERM = np.empty(0, np.intp)


@dataclass(frozen=True)
class Conditioned:
    """Distribution of some features given the others, for every matrix: Bishop (2006), equations (2.81) and (2.82)."""

    given_factors: Array
    """Factors of the precisions of the given features, in the shape of q features."""

    factors: Array
    """Factors of the precisions of the other features under the condition, in the shape of D − q features."""

    coefficients: Array
    """Matrices B with E[y | x] = μ_y + B (x − μ_x), shape (L, D − q, q)."""


@dataclass(frozen=True)
class CovarianceStructure(ABC):
    """Structure of the covariance matrices of a mixture; each subclass implements one kind of matrix.

    K is the number of components, L the number of matrices, D the number of features, P the number of second moments
    of a matrix, B the rows of a block. Precisions are represented by factors U with Σ⁻¹ = U Uᵀ. Instances hold two
    settings, their name and the way of sharing, and no state.
    """

    name: str
    """Value of ``covariance_type``."""

    shared: bool = False
    """All components have one matrix; otherwise each has its own."""

    has_matrices: ClassVar[bool] = False
    """Covariances are matrices, which may have entries off their diagonals."""

    # ================ methods that depend on sharing

    # ---- shapes and counts

    @final
    def n_matrices(self, n_components: int) -> int:
        """Number L of matrices, the length of their leading axis."""
        return 1 if self.shared else n_components

    @final
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances`` and of ``precisions_cholesky``."""
        return self.n_matrices(n_components), *self.matrix_shape(n_features)

    @final
    def covariance_dimensions(self) -> tuple[str, ...]:
        """Names of the axes of ``covariances``; the axis of a shared matrix has the length 1 and a name of its own."""
        return "shared" if self.shared else "component", *self.prior_dimensions()

    @final
    def moments_shape(self, n_components: int, n_features: int) -> tuple[int, int]:
        """Shape of the second moments in the sufficient statistics, (L, P)."""
        return self.n_matrices(n_components), self.n_moments(n_features)

    @final
    def prior_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of a prior covariance, which serves all components."""
        return self.matrix_shape(n_features)

    @final
    def prior_dimensions(self) -> tuple[str, ...]:
        """Names of the axes of a prior covariance, all different: ``"feature"``, ``"feature_"`` and so on."""
        return tuple("feature" + "_" * i for i in range(len(self.matrix_shape(1))))

    @final
    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters of all covariances together."""
        return self.n_matrices(n_components) * self.n_free(n_features)

    @final
    def for_components(self, n_components: int) -> CovarianceStructure:
        """Structure with the same arrays for that many components: the matrix of a single component is a shared one."""
        return replace(self, shared=True) if n_components == 1 and not self.shared else self

    # ---- shapes of scikit-learn's attributes

    @final
    def attribute_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances_``, ``precisions_`` and ``precisions_cholesky_``, as in scikit-learn.

        A shared matrix has no leading axis there; a shared variance is an array of one number.
        """
        shape = self.covariance_shape(n_components, n_features)
        return shape[1:] if self.shared and len(shape) > 1 else shape

    @final
    def to_attribute(self, matrices: Array) -> Array:
        """Convert covariances, precisions or factors to the shape of an attribute."""
        return matrices[0] if self.shared and matrices.ndim > 1 else matrices

    @final
    def from_attribute(self, values: Array, n_components: int, n_features: int) -> Array:
        """Convert an array in the `attribute_shape` back; inverse of `to_attribute`."""
        return values.reshape(self.covariance_shape(n_components, n_features))

    @final
    def counts_attribute_shape(self, n_components: int) -> tuple[int, ...]:
        """Shape of an attribute with one number for each matrix, such as ``degrees_of_freedom_``."""
        return () if self.shared else (n_components,)

    # ---- components and their matrices

    @final
    def of(self, matrices: Array, component: int) -> Array:
        """Matrix of a component: its own, or the shared one."""
        return np.asarray(matrices[0 if self.shared else component])

    @final
    def take(self, matrices: Array, components: Array) -> Array:
        """Matrices of a mixture of these components, in the given order; a component may occur twice."""
        return matrices if self.shared else matrices[components]

    @final
    def matrix_counts(self, soft_counts: Array) -> Array:
        """Soft counts of the matrices, (L,), from the components' soft counts, (K,); their mean for a shared matrix."""
        return np.asarray(soft_counts.mean(keepdims=True)) if self.shared else soft_counts

    @final
    def matrix_weights(self, weights: Array) -> Array:
        """Share of the rows that each matrix describes, (L,), from the components' weights, (K,)."""
        return weights.sum(keepdims=True) if self.shared else weights

    @final
    def multiply(self, covariances: Array, factors: Array) -> Array:
        """Multiply covariances by one factor for each matrix, (L,)."""
        return covariances * factors.reshape(-1, *[1] * (covariances.ndim - 1))

    @final
    def precisions_cholesky(self, covariances: Array) -> Array:
        """Compute the factor U of every precision from the covariances.

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
        """Number of quadratic features of a row; 0 if they cancel."""
        return 0 if self.shared else self.n_moments(n_features)

    @final
    def fill_quadratic(self, z: Array, out: Array) -> None:
        """Write the quadratic features of a block ``z`` (D, B) to ``out`` (n_quadratic, B)."""
        if not self.shared:
            self.fill_moments(z, out)

    @final
    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        """List the terms of the features of `fill_quadratic`: each term adds z_left · z_right to a feature.

        Returns
        -------
        left, right, feature : arrays of integers, one entry for each term
            Terms of one feature follow each other.
        """
        return (_NO_TERM, _NO_TERM, _NO_TERM) if self.shared else self.moment_terms(n_features)

    @final
    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        """Coefficients of the quadratic features in the log-density, shape (L, n_quadratic)."""
        return np.empty((1, 0)) if self.shared else self.moment_coefficients(precisions_cholesky)

    @final
    def common_quadratic(self, precisions_cholesky: Array, second_moments: Array) -> float:
        """Term of the log-likelihood that is common to all components and in no feature, summed over all rows."""
        return float(np.vdot(self.moment_coefficients(precisions_cholesky), second_moments)) if self.shared else 0.0

    @final
    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        """Term of each row's log-density that is in no feature, for a block (D, B), shape (B,); None for no term."""
        if not self.shared:
            return None
        factor = precisions_cholesky[0].astype(z.dtype)
        return np.asarray(-0.5 * self.squared_lengths(factor, z, np.empty_like(z)))

    # ---- the E-step on whitened residuals (the precise kernel)

    @final
    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        """Squared distance ‖Uᵀ(x − μ)‖² of every column of ``residual`` (D, B), (B,); overwrites ``work`` (D, B)."""
        return self.squared_lengths(self.of(precisions_cholesky, component), residual, work)

    @final
    def add_scatter(self, second_moments: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        """Add Σ_b w_b (x_b − μ)(x_b − μ)ᵀ of a block to ``second_moments``, in place; overwrites ``work`` (D, B)."""
        second_moments[0 if self.shared else component] += self.scatter(residual, weights, work)

    # ---- the M-step

    @final
    def central_covariances(self, second_moments: Array, soft_counts: Array, offsets: Array) -> Array:
        """Compute covariances about the new means from second moments about the reference.

        Parameters
        ----------
        second_moments : array
            Second moments about the reference, `moments_shape`.
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
        """Outer products w_k v_k v_kᵀ of ``vectors`` (K, D) with ``weights`` (K,), in the form of covariances.

        A shared matrix is the average over the components, a single variance the average over the features.
        """
        shares = self._by_matrix(weights)
        moments = self.moments(self._by_matrix(vectors), shares) / shares.shape[1]
        return self.from_moments(moments, vectors.shape[1])

    @final
    def shifted_moments(self, second_moments: Array, soft_counts: Array, first: Array, shifts: Array) -> Array:
        """Compute second moments of rows that are shifted by ``shifts`` (K, D), Σ r (x + v)(x + v)ᵀ.

        Parameters
        ----------
        second_moments : array
            Second moments of the rows, `moments_shape`.
        soft_counts : array of shape (K,)
        first : array of shape (K, D)
            Weighted sums of the rows.
        """
        shifted = second_moments + self.moments(self._by_matrix(shifts), self._by_matrix(soft_counts))
        largest, furthest = np.abs(first).max(initial=0.0), np.abs(shifts).max(initial=0.0)
        if largest > 0 and furthest > 0:
            # x vᵀ + v xᵀ = ½ (x + v)(x + v)ᵀ − ½ (x − v)(x − v)ᵀ loses the fewest digits if x and v are equally long.
            vectors, halves = (
                first * (furthest / largest),
                self._by_matrix(np.full(len(first), 0.5 * largest / furthest)),
            )
            shifted += self.moments(self._by_matrix(vectors + shifts), halves)
            shifted -= self.moments(self._by_matrix(vectors - shifts), halves)
        return shifted

    @final
    def divide_moments(self, second_moments: Array, n_components: int) -> Array:
        """Divide the second moments of one component among ``n_components`` equal components."""
        return second_moments if self.shared else np.repeat(second_moments / n_components, n_components, axis=0)

    def _by_matrix(self, values: Array) -> Array:
        """Group values of components, (K, …), by their matrices: (L, K / L, …)."""
        return values[None] if self.shared else values[:, None]

    # ================ methods that depend on the kind of matrix

    # ---- shapes and counts

    @abstractmethod
    def matrix_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of one covariance, and of its factor."""

    @abstractmethod
    def n_free(self, n_features: int) -> int:
        """Number of free parameters of one covariance."""

    @abstractmethod
    def n_moments(self, n_features: int) -> int:
        """Number P of second moments of the rows that one covariance is estimated from."""

    # ---- covariances, precisions, factors: all of shape (L, *matrix_shape)

    @abstractmethod
    def invert(self, covariances: Array) -> tuple[Array, Array]:
        """Factors U of the inverses, and a mask of the finite and positive definite covariances, (L,)."""

    @abstractmethod
    def factor_precisions(self, precisions: Array) -> Array:
        """Compute the factor U of every precision; the precisions have passed `check_precisions`."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """Precisions U Uᵀ."""

    @abstractmethod
    def covariances(self, precisions_cholesky: Array) -> Array:
        """Covariances (U Uᵀ)⁻¹."""

    @abstractmethod
    def check_precisions(self, precisions: Array) -> None:
        """Raise ValueError unless every precision is symmetric and positive definite."""

    def is_factor(self, roots: Array) -> bool:
        """Test whether square roots R of precisions R Rᵀ have the form of factors of `precisions_cholesky`."""
        return bool((roots > 0).all())

    def log_det(self, covariances: Array, n_features: int) -> Array:
        """Log-determinant of every covariance, shape (L,); infinity where one is not positive definite."""
        factors, good = self.invert(covariances)
        log_det = np.full(len(covariances), np.inf)
        if good.any():
            log_det[good] = -2 * self.log_det_cholesky(factors[good], n_features)
        return log_det

    @abstractmethod
    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        """Logarithm of det U of every matrix, shape (L,)."""

    @abstractmethod
    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """Variance of every feature in every component, shape (K, D)."""

    @abstractmethod
    def color_rows(self, covariance: Array, noise: Array) -> Array:
        """Turn standard normal rows, (n, D), into rows with that covariance, `matrix_shape`, and mean zero."""

    # ---- some of the features

    @abstractmethod
    def select_features(self, covariances: Array, features: Array) -> Array:
        """Covariances of some features, (d,), in the given order: those of the marginal distribution.

        They have the same structure.
        """

    @abstractmethod
    def condition(self, precisions_cholesky: Array, n_given: int, n_features: int) -> Conditioned:
        """Split the factors of the precisions between the first ``n_given`` features and the others."""

    # ---- change of units: z = x / scale

    def frame_scale(self, scale: Array) -> Array:
        """Scales that the structure can use, from the scales of the features, shape (D,)."""
        return scale

    @abstractmethod
    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        """Factors of the precisions of z = x / scale."""

    @abstractmethod
    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        """Covariances of x = z · scale from those of z."""

    @abstractmethod
    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        """Add ``ridge`` to every variance, in place, and return the covariances."""

    # ---- second moments

    @abstractmethod
    def fill_moments(self, z: Array, out: Array) -> None:
        """Write the products of each row of a block (D, B), whose sums are the second moments, to ``out`` (P, B)."""

    @abstractmethod
    def moment_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        """List the terms of the products of `fill_moments`, as `quadratic_terms` does."""

    @abstractmethod
    def moment_coefficients(self, precisions_cholesky: Array) -> Array:
        """Coefficients of the second moments in the log-likelihood, shape (L, P)."""

    @abstractmethod
    def block_moments(self, z: Array, weights: Array | None) -> Array:
        """Second moments of all rows of a block (D, B), shape (P,), from the fast kernel's transposed rows.

        Weights of one give the same bits as no weights.
        """

    @abstractmethod
    def scatter(self, residual: Array, weights: Array, work: Array) -> Array:
        """Weighted second moments of a block (D, B), shape (P,), in double precision; overwrites ``work`` (D, B)."""

    @abstractmethod
    def moments(self, vectors: Array, weights: Array) -> Array:
        """Second moments Σ_g w v vᵀ of groups of vectors, (L, G, D), with weights, (L, G); shape (L, P)."""

    @abstractmethod
    def from_moments(self, moments: Array, n_features: int) -> Array:
        """Covariances from ``moments`` (L, P), the second moments per row."""

    # ---- vectors and factors

    @abstractmethod
    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Products Σ_k⁻¹ v_k for every component, shape (K, D)."""

    @abstractmethod
    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        """Largest factor by which rounding grows in θ_k · T(x), for means and factors about the reference point.

        The factor of a component is λmax(Σ_k⁻¹) (‖μ_k‖ + 3 √λmax(Σ_k))²; for diagonal matrices, the sum of this
        expression over the features.
        """

    @abstractmethod
    def squared_lengths(self, factor: Array, residual: Array, work: Array) -> Array:
        """Squared length ‖Uᵀ v‖² of every column of ``residual`` (D, B), (B,), for one factor; overwrites ``work``."""

    @abstractmethod
    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        """Products Uᵀ v for all vectors of every component, (K, B, D)."""

    # ---- differences between mixtures, in units of one of them

    @abstractmethod
    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Products U_kᵀ v_k, shape (K, D): vectors in units of their components' standard deviations."""

    @abstractmethod
    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        """Inverse of `whiten`."""

    @abstractmethod
    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        """Coordinates of factors relative to the factors ``origin``: any real numbers, one row for each matrix.

        The coordinates are zero at the origin, and do not change with the units of the data. To leading order, half a
        row's squared length is the Kullback-Leibler divergence between normal distributions with the two covariances.
        """

    @abstractmethod
    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        """Inverse of `relative_coordinates`."""
