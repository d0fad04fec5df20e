"""Covariance structures: what the covariance matrix of a component may look like.

One class for each structure, behind one abstract base and a registry. Everything that depends on the structure is
asked of it here, so a fifth structure is one class and one row in `STRUCTURES`.

==========  ==========================  ===========================  ==========================
structure   covariances, shape          second moments, shape        quadratic features
==========  ==========================  ===========================  ==========================
full        (K, D, D)                   (K, D (D + 1) / 2)           x_i x_j for i ≤ j
tied        (D, D)                      (D (D + 1) / 2,)             none (they cancel)
diag        (K, D)                      (K, D)                       x_i²
spherical   (K,)                        (K,)                         ‖x‖²
==========  ==========================  ===========================  ==========================

Precisions are carried as Cholesky factors: ``precisions_cholesky`` is the upper triangular U with Σ⁻¹ = U Uᵀ (full,
tied) or the reciprocal standard deviation (diag, spherical), as in scikit-learn. Blocks of rows are held transposed,
(D, B), so that building a feature is one vector operation on contiguous memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import solve_triangular

from ..errors import IllDefinedCovarianceError

Array = np.ndarray[Any, np.dtype[Any]]


class CovarianceStructure(ABC):
    """What depends on the shape of the covariance matrices, and nothing else.

    K is the number of components, D the number of features, B the rows of a block. Instances hold no state.
    """

    name: ClassVar[str]

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

    @abstractmethod
    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        """Logarithm of det U of every component, shape (K,) or broadcastable to it."""

    @abstractmethod
    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """Variance of every feature in every component, shape (K, D)."""

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

    @abstractmethod
    def repeat(self, covariances: Array, n_components: int) -> Array:
        """Covariances of ``n_components`` equal components from those of one."""

    # ---- the E-step on quadratic features

    @abstractmethod
    def n_quadratic(self, n_features: int) -> int:
        """Quadratic features of a row."""

    @abstractmethod
    def fill_quadratic(self, z: Array, out: Array) -> None:
        """Write the quadratic features of a block ``z`` (D, B) to ``out`` (n_quadratic, B)."""

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


class Full(CovarianceStructure):
    """Every component has its own general covariance matrix."""

    name = "full"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features, n_features

    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, triangle_size(n_features)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * triangle_size(n_features)

    def precisions_cholesky(self, covariances: Array) -> Array:
        factors = [_invert_cholesky(c) for c in covariances]
        bad = tuple(k for k, factor in enumerate(factors) if factor is None)
        if bad:
            raise IllDefinedCovarianceError(bad)
        return np.stack([factor for factor in factors if factor is not None])

    def factor_precisions(self, precisions: Array) -> Array:
        return np.stack([_upper_factor(p) for p in precisions])

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ precisions_cholesky.transpose(0, 2, 1)

    def covariances(self, precisions_cholesky: Array) -> Array:
        return np.stack([_gram_inverse(u) for u in precisions_cholesky])

    def check_precisions(self, precisions: Array) -> None:
        for precision in precisions:
            _check_positive_definite(precision, self.name)

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(np.log(np.einsum("kii->ki", precisions_cholesky)).sum(axis=1))

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.einsum("kii->ki", covariances)

    def color(self, covariances: Array, component: int, noise: Array) -> Array:
        return noise @ np.linalg.cholesky(covariances[component]).T

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale[:, None]

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale * scale[:, None]

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        np.einsum("kii->ki", covariances)[...] += ridge
        return covariances

    def repeat(self, covariances: Array, n_components: int) -> Array:
        return np.repeat(covariances, n_components, axis=0)

    def n_quadratic(self, n_features: int) -> int:
        return triangle_size(n_features)

    def fill_quadratic(self, z: Array, out: Array) -> None:
        start = 0
        for i in range(len(z)):
            stop = start + len(z) - i
            np.multiply(z[i:], z[i], out=out[start:stop])
            start = stop

    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        i, j = _triangle(precisions_cholesky.shape[-1])
        return self.precisions(precisions_cholesky)[:, i, j] * np.where(i == j, -0.5, -1.0)

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        whitened = np.einsum("kij,ki->kj", precisions_cholesky, vectors)
        return np.einsum("kij,kj->ki", precisions_cholesky, whitened)

    def common_quadratic(self, precisions_cholesky: Array, second: Array) -> float:
        return 0.0

    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        return None

    def common_second(self, z: Array, weights: Array | None) -> Array | None:
        return None

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        return _amplification(means, precisions_cholesky)

    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        return _whitened_square(precisions_cholesky[component], residual, work)

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        np.multiply(residual, np.sqrt(weights), out=work)
        second[component] += pack(work @ work.T)

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        covariances = unpack(second / soft_counts[:, None], offsets.shape[1])
        covariances -= offsets[:, :, None] * offsets[:, None, :]
        return covariances


class Tied(CovarianceStructure):
    """All components share one general covariance matrix.

    The quadratic term is then the same for every component: it cancels in the responsibilities, Σ r x xᵀ does not
    depend on them either, and the features are [x, 1] alone.
    """

    name = "tied"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_features, n_features

    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (triangle_size(n_features),)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return triangle_size(n_features)

    def precisions_cholesky(self, covariances: Array) -> Array:
        factor = _invert_cholesky(covariances)
        if factor is None:
            raise IllDefinedCovarianceError(())
        return factor

    def factor_precisions(self, precisions: Array) -> Array:
        return _upper_factor(precisions)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ precisions_cholesky.T

    def covariances(self, precisions_cholesky: Array) -> Array:
        return _gram_inverse(precisions_cholesky)

    def check_precisions(self, precisions: Array) -> None:
        _check_positive_definite(precisions, self.name)

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(np.log(np.diagonal(precisions_cholesky)).sum())

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(np.diagonal(covariances), (n_components, n_features))

    def color(self, covariances: Array, component: int, noise: Array) -> Array:
        return noise @ np.linalg.cholesky(covariances).T

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale[:, None]

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale * scale[:, None]

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        np.einsum("ii->i", covariances)[...] += ridge
        return covariances

    def repeat(self, covariances: Array, n_components: int) -> Array:
        return covariances

    def n_quadratic(self, n_features: int) -> int:
        return 0

    def fill_quadratic(self, z: Array, out: Array) -> None:
        """There are none."""

    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        return np.empty((1, 0))

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return (vectors @ precisions_cholesky) @ precisions_cholesky.T

    def common_quadratic(self, precisions_cholesky: Array, second: Array) -> float:
        n_features = len(precisions_cholesky)
        i, j = _triangle(n_features)
        return float(np.dot(self.precisions(precisions_cholesky)[i, j] * np.where(i == j, -0.5, -1.0), second))

    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        whitened = precisions_cholesky.T.astype(z.dtype) @ z
        return np.asarray(-0.5 * np.einsum("db,db->b", whitened, whitened))

    def common_second(self, z: Array, weights: Array | None) -> Array | None:
        return pack(z @ z.T if weights is None else (z * weights.astype(z.dtype)) @ z.T)

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        return _amplification(means, precisions_cholesky)

    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        return _whitened_square(precisions_cholesky, residual, work)

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        np.multiply(residual, np.sqrt(weights), out=work)
        second += pack(work @ work.T)

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        total = unpack(second, offsets.shape[1]) - (soft_counts[:, None] * offsets).T @ offsets
        return total / soft_counts.sum()


class Diag(CovarianceStructure):
    """Every component has its own variance for each feature; features are independent within a component."""

    name = "diag"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features

    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def precisions_cholesky(self, covariances: Array) -> Array:
        return _reciprocal_deviations(covariances)

    def factor_precisions(self, precisions: Array) -> Array:
        return np.sqrt(precisions)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**2

    def covariances(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**-2.0

    def check_precisions(self, precisions: Array) -> None:
        _check_positive(precisions, self.name)

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(np.log(precisions_cholesky).sum(axis=1))

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return covariances

    def color(self, covariances: Array, component: int, noise: Array) -> Array:
        return noise * np.sqrt(covariances[component])

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale**2

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        covariances += ridge
        return covariances

    def repeat(self, covariances: Array, n_components: int) -> Array:
        return np.repeat(covariances, n_components, axis=0)

    def n_quadratic(self, n_features: int) -> int:
        return n_features

    def fill_quadratic(self, z: Array, out: Array) -> None:
        np.multiply(z, z, out=out)

    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        return -0.5 * precisions_cholesky**2

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky**2 * vectors

    def common_quadratic(self, precisions_cholesky: Array, second: Array) -> float:
        return 0.0

    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        return None

    def common_second(self, z: Array, weights: Array | None) -> Array | None:
        return None

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        return float(((np.abs(means) * precisions_cholesky + 3) ** 2).sum(axis=1).max())

    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        np.multiply(residual, residual, out=work)
        return np.asarray(precisions_cholesky[component] ** 2 @ work)

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        np.multiply(residual, residual, out=work)
        second[component] += work @ weights

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        return second / soft_counts[:, None] - offsets**2


class Spherical(CovarianceStructure):
    """Every component has one variance for all features."""

    name = "spherical"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def precisions_cholesky(self, covariances: Array) -> Array:
        return _reciprocal_deviations(covariances)

    def factor_precisions(self, precisions: Array) -> Array:
        return np.sqrt(precisions)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**2

    def covariances(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**-2.0

    def check_precisions(self, precisions: Array) -> None:
        _check_positive(precisions, self.name)

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return n_features * np.log(precisions_cholesky)

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(covariances[:, None], (n_components, n_features))

    def color(self, covariances: Array, component: int, noise: Array) -> Array:
        return noise * math.sqrt(covariances[component])

    def frame_scale(self, scale: Array) -> Array:
        # One variance for all features means one unit for all of them: the widest feature sets it.
        return np.full_like(scale, scale.max())

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale[0]

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale[0] ** 2

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        covariances += ridge
        return covariances

    def repeat(self, covariances: Array, n_components: int) -> Array:
        return np.repeat(covariances, n_components, axis=0)

    def n_quadratic(self, n_features: int) -> int:
        return 1

    def fill_quadratic(self, z: Array, out: Array) -> None:
        np.einsum("db,db->b", z, z, out=out[0])

    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        return -0.5 * precisions_cholesky[:, None] ** 2

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky[:, None] ** 2 * vectors

    def common_quadratic(self, precisions_cholesky: Array, second: Array) -> float:
        return 0.0

    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        return None

    def common_second(self, z: Array, weights: Array | None) -> Array | None:
        return None

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        reach = np.linalg.norm(means, axis=1) * precisions_cholesky + 3 * math.sqrt(means.shape[1])
        return float((reach**2).max())

    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        distance = np.einsum("db,db->b", residual, residual)
        distance *= precisions_cholesky[component] ** 2
        return np.asarray(distance)

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        second[component] += float(np.dot(np.einsum("db,db->b", residual, residual), weights))

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        return (second / soft_counts - (offsets**2).sum(axis=1)) / offsets.shape[1]


STRUCTURES: dict[str, CovarianceStructure] = {s.name: s for s in (Full(), Tied(), Diag(), Spherical())}
"""Every structure by its name, which is scikit-learn's ``covariance_type``."""


# ---- triangles and factors


# Rows of a triangular product that are computed together.
_PANEL = 32


def triangle_size(n_features: int) -> int:
    """Entries of a symmetric (D, D) matrix on and above its diagonal."""
    return n_features * (n_features + 1) // 2


def pack(matrix: Array) -> Array:
    """Upper triangle of symmetric matrices, row by row: (…, D, D) -> (…, D (D + 1) / 2)."""
    i, j = _triangle(matrix.shape[-1])
    return matrix[..., i, j]


def unpack(packed: Array, n_features: int) -> Array:
    """Inverse of `pack`."""
    matrix = np.empty((*packed.shape[:-1], n_features, n_features), packed.dtype)
    i, j = _triangle(n_features)
    matrix[..., i, j] = packed
    matrix[..., j, i] = packed
    return matrix


@lru_cache(maxsize=8)
def _triangle(n_features: int) -> tuple[Array, Array]:
    # A block's scatter is packed once for each component: finding the indices anew would take longer than using them.
    return np.triu_indices(n_features)


def _whitened_square(upper: Array, residual: Array, work: Array) -> Array:
    """‖Uᵀx‖² of every column."""
    # Panels skip most of the zeros of the triangle; SciPy's triangular product would skip all, but holds the GIL.
    for start in range(0, len(upper), _PANEL):
        stop = start + _PANEL
        np.matmul(upper[:stop, start:stop].T, residual[:stop], out=work[start:stop])
    return np.asarray(np.einsum("db,db->b", work, work))


def _invert_cholesky(covariance: Array) -> Array | None:
    """Upper triangular U with covariance⁻¹ = U Uᵀ; None where the matrix is not positive definite and finite."""
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(lower).all():
        return None
    inverse = solve_triangular(lower, np.eye(len(lower)), lower=True, check_finite=False)
    # Subnormal variances have reciprocals beyond the largest double.
    with np.errstate(over="ignore", invalid="ignore"):
        return inverse.T if np.isfinite(np.square(inverse).sum()) else None


def _upper_factor(precision: Array) -> Array:
    """Upper triangular U with precision = U Uᵀ: the Cholesky factor of the matrix with both axes reversed."""
    return np.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1].copy()


def _gram_inverse(upper: Array) -> Array:
    """(U Uᵀ)⁻¹."""
    inverse = solve_triangular(upper, np.eye(len(upper)), lower=False, check_finite=False)
    return np.asarray(inverse.T @ inverse)


def _reciprocal_deviations(variances: Array) -> Array:
    # Written so that NaN counts as bad too; a subnormal variance has no finite reciprocal.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        result = 1.0 / np.sqrt(variances)
        good = (variances > 0) & np.isfinite(variances) & np.isfinite(result * result)
    if not good.all():
        bad = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
        raise IllDefinedCovarianceError(tuple(int(k) for k in bad))
    return np.asarray(result)


def _amplification(means: Array, uppers: Array) -> float:
    reciprocals = np.linalg.svd(uppers, compute_uv=False)  # of the principal standard deviations, (D,) or (K, D)
    reach = np.linalg.norm(means, axis=1) + 3 / reciprocals[..., -1]
    return float(((reciprocals[..., 0] * reach) ** 2).max())


def _check_positive_definite(precision: Array, name: str) -> None:
    tolerance = 1e-8 * float(np.abs(precision).max(initial=0))
    symmetric = np.isfinite(tolerance) and np.allclose(precision, precision.T, rtol=1e-5, atol=tolerance)
    if not (symmetric and np.all(np.linalg.eigvalsh(precision) > 0.0)):
        raise ValueError(f"'{name} precision' should be symmetric, positive-definite")


def _check_positive(precision: Array, name: str) -> None:
    if not np.all((precision > 0.0) & np.isfinite(precision)):
        raise ValueError(f"'{name} precision' should be positive")
