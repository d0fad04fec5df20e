"""Three kinds of covariance matrix: general, diagonal, and one variance.

=========  =====================  =======================  ====================
kind       covariances, shape     second moments, shape    products of a row
=========  =====================  =======================  ====================
General    (L, D, D)              (L, D (D + 1) / 2)       x_i x_j for i ≤ j
Diagonal   (L, D)                 (L, D)                   x_i²
Scalar     (L,)                   (L, 1)                   ‖x‖²
=========  =====================  =======================  ====================

Factors of the precisions are upper triangular for general matrices, and reciprocal standard deviations for the other
two, as in scikit-learn. Blocks of rows are held transposed, (D, B), so that building a product is one vector operation
on contiguous memory.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .structure import Conditioned, CovarianceStructure
from .triangle import (
    amplification,
    check_positive_definite,
    gram_inverse,
    invert_cholesky,
    is_upper_factor,
    pack,
    relative_factor,
    shifted_factor,
    triangle,
    triangle_size,
    unpack,
    unwhitened,
    upper_factor,
    whitened_square,
)

Array = np.ndarray[Any, np.dtype[Any]]


class General(CovarianceStructure):
    """General matrices: features may be correlated within a component."""

    has_matrices: ClassVar[bool] = True

    def matrix_shape(self, n_features: int) -> tuple[int, ...]:
        return n_features, n_features

    def n_free(self, n_features: int) -> int:
        return triangle_size(n_features)

    def n_moments(self, n_features: int) -> int:
        return triangle_size(n_features)

    def invert(self, covariances: Array) -> tuple[Array, Array]:
        return invert_cholesky(covariances)

    def factor_precisions(self, precisions: Array) -> Array:
        return np.stack([upper_factor(p) for p in precisions])

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ precisions_cholesky.transpose(0, 2, 1)

    def covariances(self, precisions_cholesky: Array) -> Array:
        return np.stack([gram_inverse(u) for u in precisions_cholesky])

    def check_precisions(self, precisions: Array) -> None:
        for precision in precisions:
            check_positive_definite(precision, self.name)

    def is_factor(self, roots: Array) -> bool:
        return is_upper_factor(roots)

    def log_det(self, covariances: Array, n_features: int) -> Array:
        # An even number of negative eigenvalues shows in no sign; covariances from moments have none but by rounding.
        sign, log_det = np.linalg.slogdet(covariances)
        return np.asarray(np.where((sign > 0) & np.isfinite(log_det), log_det, np.inf))

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(np.log(np.einsum("kii->ki", precisions_cholesky)).sum(axis=1))

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(np.einsum("kii->ki", covariances), (n_components, n_features))

    def color_rows(self, covariance: Array, noise: Array) -> Array:
        return noise @ np.linalg.cholesky(covariance).T

    def select_features(self, covariances: Array, features: Array) -> Array:
        return covariances[:, features[:, None], features]

    def condition(self, precisions_cholesky: Array, n_given: int, n_features: int) -> Conditioned:
        # With covariance = L Lᵀ the factor is L⁻ᵀ: its diagonal blocks are those of L, inverted and transposed.
        across, factors = precisions_cholesky[:, :n_given, n_given:], precisions_cholesky[:, n_given:, n_given:]
        coefficients = np.stack([-unwhitened(u, c.T) for u, c in zip(factors, across, strict=True)])
        return Conditioned(precisions_cholesky[:, :n_given, :n_given], factors, coefficients)

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale[:, None]

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale * scale[:, None]

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        np.einsum("kii->ki", covariances)[...] += ridge
        return covariances

    def fill_moments(self, z: Array, out: Array) -> None:
        start = 0
        for i in range(len(z)):
            stop = start + len(z) - i
            np.multiply(z[i:], z[i], out=out[start:stop])
            start = stop

    def moment_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        return *triangle(n_features), np.arange(triangle_size(n_features))

    def moment_coefficients(self, precisions_cholesky: Array) -> Array:
        i, j = triangle(precisions_cholesky.shape[-1])
        return self.precisions(precisions_cholesky)[:, i, j] * np.where(i == j, -0.5, -1.0)

    def block_moments(self, z: Array, weights: Array | None) -> Array:
        z = z.astype(np.float64, copy=False)  # sums of equal rows would lose digits in single precision
        weighted = z if weights is None else z * np.sqrt(weights)
        return pack(weighted @ weighted.T)

    def scatter(self, residual: Array, weights: Array, work: Array) -> Array:
        np.multiply(residual, np.sqrt(weights), out=work)
        return pack(work @ work.T)

    def moments(self, vectors: Array, weights: Array) -> Array:
        return pack(vectors.transpose(0, 2, 1) @ (weights[..., None] * vectors))

    def from_moments(self, moments: Array, n_features: int) -> Array:
        return unpack(moments, n_features)

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        if len(precisions_cholesky) == 1:  # products of matrices, which einsum does not make
            return np.asarray(vectors @ precisions_cholesky[0] @ precisions_cholesky[0].T)
        whitened = np.einsum("...ij,...i->...j", precisions_cholesky, vectors)
        return np.einsum("...ij,...j->...i", precisions_cholesky, whitened)

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        return amplification(means, precisions_cholesky)

    def squared_lengths(self, factor: Array, residual: Array, work: Array) -> Array:
        return whitened_square(factor, residual, work)

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals @ precisions_cholesky

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        if len(precisions_cholesky) == 1:
            return np.asarray(vectors @ precisions_cholesky[0])
        return np.asarray(np.einsum("...ij,...i->...j", precisions_cholesky, vectors))

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        groups = vectors.reshape(len(precisions_cholesky), -1, vectors.shape[1])
        parts = [unwhitened(u, group.T).T for u, group in zip(precisions_cholesky, groups, strict=True)]
        return np.concatenate(parts)

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return np.stack([relative_factor(o, u) for o, u in zip(origin, precisions_cholesky, strict=True)])

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return np.stack([shifted_factor(o, c) for o, c in zip(origin, coordinates, strict=True)])


class _Variances(CovarianceStructure):
    """Variances in place of matrices: features are not correlated within a component."""

    def invert(self, covariances: Array) -> tuple[Array, Array]:
        # These comparisons reject NaN too; a subnormal variance has no finite reciprocal.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            factors = 1.0 / np.sqrt(covariances)
            good = (covariances > 0) & np.isfinite(covariances) & np.isfinite(factors * factors)
        return np.asarray(factors), np.asarray(good.reshape(len(good), -1).all(axis=1))

    def factor_precisions(self, precisions: Array) -> Array:
        return np.sqrt(precisions)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**2

    def covariances(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**-2.0

    def check_precisions(self, precisions: Array) -> None:
        if not np.all((precisions > 0.0) & np.isfinite(precisions)):
            raise ValueError(f"'{self.name} precision' should be positive")

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        covariances += ridge
        return covariances


class Diagonal(_Variances):
    """Diagonal matrices: one variance for each feature."""

    def matrix_shape(self, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def n_free(self, n_features: int) -> int:
        return n_features

    def n_moments(self, n_features: int) -> int:
        return n_features

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(np.log(precisions_cholesky).sum(axis=1))

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(covariances, (n_components, n_features))

    def color_rows(self, covariance: Array, noise: Array) -> Array:
        return noise * np.sqrt(covariance)

    def select_features(self, covariances: Array, features: Array) -> Array:
        return covariances[:, features]

    def condition(self, precisions_cholesky: Array, n_given: int, n_features: int) -> Conditioned:
        given, factors = precisions_cholesky[:, :n_given], precisions_cholesky[:, n_given:]
        return Conditioned(given, factors, np.zeros((len(factors), n_features - n_given, n_given)))

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale**2

    def fill_moments(self, z: Array, out: Array) -> None:
        np.multiply(z, z, out=out)

    def moment_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        each = np.arange(n_features)
        return each, each, each

    def moment_coefficients(self, precisions_cholesky: Array) -> Array:
        return -0.5 * precisions_cholesky**2

    def block_moments(self, z: Array, weights: Array | None) -> Array:
        squares = np.square(z, dtype=np.float64)
        return np.asarray((squares if weights is None else squares * weights).sum(axis=1))

    def scatter(self, residual: Array, weights: Array, work: Array) -> Array:
        np.multiply(residual, residual, out=work)
        return np.asarray(work @ weights)

    def moments(self, vectors: Array, weights: Array) -> Array:
        return np.asarray((weights[..., None] * vectors**2).sum(axis=1))

    def from_moments(self, moments: Array, n_features: int) -> Array:
        return moments

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky**2 * vectors

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        return float(((np.abs(means) * precisions_cholesky + 3) ** 2).sum(axis=1).max())

    def squared_lengths(self, factor: Array, residual: Array, work: Array) -> Array:
        np.multiply(residual, residual, out=work)
        return np.asarray(factor**2 @ work)

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals * precisions_cholesky[:, None]

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky * vectors

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return vectors / precisions_cholesky

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(math.sqrt(2) * np.log(precisions_cholesky / origin))

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return np.asarray(origin * np.exp(coordinates / math.sqrt(2)))


class Scalar(_Variances):
    """Multiples of the unit matrix: one variance for all features."""

    def matrix_shape(self, n_features: int) -> tuple[int, ...]:
        return ()

    def n_free(self, n_features: int) -> int:
        return 1

    def n_moments(self, n_features: int) -> int:
        return 1

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return n_features * np.log(precisions_cholesky)

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(covariances[:, None], (n_components, n_features))

    def color_rows(self, covariance: Array, noise: Array) -> Array:
        return noise * math.sqrt(covariance)

    def select_features(self, covariances: Array, features: Array) -> Array:
        return covariances

    def condition(self, precisions_cholesky: Array, n_given: int, n_features: int) -> Conditioned:
        coefficients = np.zeros((len(precisions_cholesky), n_features - n_given, n_given))
        return Conditioned(precisions_cholesky, precisions_cholesky, coefficients)

    def frame_scale(self, scale: Array) -> Array:
        # One variance for all features means one unit for all of them: the widest feature sets it.
        return np.full_like(scale, scale.max())

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale[0]

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale[0] ** 2

    def fill_moments(self, z: Array, out: Array) -> None:
        np.einsum("db,db->b", z, z, out=out[0])

    def moment_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        each = np.arange(n_features)
        return each, each, np.zeros_like(each)

    def moment_coefficients(self, precisions_cholesky: Array) -> Array:
        return -0.5 * precisions_cholesky[:, None] ** 2

    def block_moments(self, z: Array, weights: Array | None) -> Array:
        squares = np.square(z, dtype=np.float64).sum(axis=0)
        return np.atleast_1d((squares if weights is None else squares * weights).sum())

    def scatter(self, residual: Array, weights: Array, work: Array) -> Array:
        return np.atleast_1d(np.dot(np.einsum("db,db->b", residual, residual), weights))

    def moments(self, vectors: Array, weights: Array) -> Array:
        return np.asarray((weights * (vectors**2).sum(axis=2)).sum(axis=1, keepdims=True))

    def from_moments(self, moments: Array, n_features: int) -> Array:
        return moments[:, 0] / n_features

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky[:, None] ** 2 * vectors

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        row_norm = np.linalg.norm(means, axis=1) * precisions_cholesky + 3 * math.sqrt(means.shape[1])
        return float((row_norm**2).max())

    def squared_lengths(self, factor: Array, residual: Array, work: Array) -> Array:
        distance = np.einsum("db,db->b", residual, residual)
        distance *= factor**2
        return np.asarray(distance)

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals * precisions_cholesky[:, None, None]

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky[:, None] * vectors

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return vectors / precisions_cholesky[:, None]

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(math.sqrt(2 * n_features) * np.log(precisions_cholesky / origin)[:, None])

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return np.asarray(origin * np.exp(coordinates[:, 0] / math.sqrt(2 * n_features)))
