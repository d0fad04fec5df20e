"""Covariance structures: what the covariance matrix of a component may look like.

One class for each structure and a registry. Everything that depends on the structure is asked of it here, so a fifth
structure is its name in `daskgmm.names`, one class and one row in `STRUCTURES`.

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
from typing import Any

import numpy as np

from ..errors import IllDefinedCovarianceError
from ..names import DIAG, FULL, SPHERICAL, TIED
from .structure import CovarianceStructure
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

_NO_TERM = np.empty(0, np.intp)


class Full(CovarianceStructure):
    """Every component has its own general covariance matrix."""

    name = FULL
    has_matrices = True

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, n_features, n_features

    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_components, triangle_size(n_features)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * triangle_size(n_features)

    def precisions_cholesky(self, covariances: Array) -> Array:
        factors = [invert_cholesky(c) for c in covariances]
        bad = tuple(k for k, factor in enumerate(factors) if factor is None)
        if bad:
            raise IllDefinedCovarianceError(bad)
        return np.stack([factor for factor in factors if factor is not None])

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

    def n_quadratic(self, n_features: int) -> int:
        return triangle_size(n_features)

    def fill_quadratic(self, z: Array, out: Array) -> None:
        start = 0
        for i in range(len(z)):
            stop = start + len(z) - i
            np.multiply(z[i:], z[i], out=out[start:stop])
            start = stop

    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        return *triangle(n_features), np.arange(triangle_size(n_features))

    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        i, j = triangle(precisions_cholesky.shape[-1])
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
        return amplification(means, precisions_cholesky)

    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        return whitened_square(precisions_cholesky[component], residual, work)

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals @ precisions_cholesky

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        np.multiply(residual, np.sqrt(weights), out=work)
        second[component] += pack(work @ work.T)

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        covariances = unpack(second / soft_counts[:, None], offsets.shape[1])
        covariances -= offsets[:, :, None] * offsets[:, None, :]
        return covariances

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return np.einsum("kij,ki->kj", precisions_cholesky, vectors)

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return np.stack([unwhitened(u, v) for u, v in zip(precisions_cholesky, vectors, strict=True)])

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return np.stack([relative_factor(o, u) for o, u in zip(origin, precisions_cholesky, strict=True)])

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return np.stack([shifted_factor(o, c) for o, c in zip(origin, coordinates, strict=True)])

    def outer_products(self, vectors: Array, weights: Array) -> Array:
        return np.asarray(np.einsum("k,ki,kj->kij", weights, vectors, vectors))


class Tied(CovarianceStructure):
    """All components share one general covariance matrix.

    The quadratic term is then the same for every component: it cancels in the responsibilities, Σ r x xᵀ does not
    depend on them either, and the features are [x, 1] alone.
    """

    name = TIED
    has_matrices = True

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return n_features, n_features

    def second_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (triangle_size(n_features),)

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        return triangle_size(n_features)

    def precisions_cholesky(self, covariances: Array) -> Array:
        factor = invert_cholesky(covariances)
        if factor is None:
            raise IllDefinedCovarianceError(())
        return factor

    def factor_precisions(self, precisions: Array) -> Array:
        return upper_factor(precisions)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ precisions_cholesky.T

    def covariances(self, precisions_cholesky: Array) -> Array:
        return gram_inverse(precisions_cholesky)

    def check_precisions(self, precisions: Array) -> None:
        check_positive_definite(precisions, self.name)

    def is_factor(self, roots: Array) -> bool:
        return is_upper_factor(roots)

    def log_det_cholesky(self, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(np.log(np.diagonal(precisions_cholesky)).sum())

    def marginal_variances(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(np.diagonal(covariances), (n_components, n_features))

    def take(self, covariances: Array, components: Array) -> Array:
        return covariances

    def color(self, covariances: Array, component: int, noise: Array) -> Array:
        return noise @ np.linalg.cholesky(covariances).T

    def scale_cholesky(self, precisions_cholesky: Array, scale: Array) -> Array:
        return precisions_cholesky * scale[:, None]

    def unscale_covariances(self, covariances: Array, scale: Array) -> Array:
        return covariances * scale * scale[:, None]

    def add_ridge(self, covariances: Array, ridge: float) -> Array:
        np.einsum("ii->i", covariances)[...] += ridge
        return covariances

    def n_quadratic(self, n_features: int) -> int:
        return 0

    def fill_quadratic(self, z: Array, out: Array) -> None:
        """There are none."""

    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        return _NO_TERM, _NO_TERM, _NO_TERM

    def quadratic_coefficients(self, precisions_cholesky: Array) -> Array:
        return np.empty((1, 0))

    def precision_times(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return (vectors @ precisions_cholesky) @ precisions_cholesky.T

    def common_quadratic(self, precisions_cholesky: Array, second: Array) -> float:
        n_features = len(precisions_cholesky)
        i, j = triangle(n_features)
        return float(np.dot(self.precisions(precisions_cholesky)[i, j] * np.where(i == j, -0.5, -1.0), second))

    def common_row_quadratic(self, precisions_cholesky: Array, z: Array) -> Array | None:
        whitened = precisions_cholesky.T.astype(z.dtype) @ z
        return np.asarray(-0.5 * np.einsum("db,db->b", whitened, whitened))

    def common_second(self, z: Array, weights: Array | None) -> Array | None:
        return pack(z @ z.T if weights is None else (z * weights.astype(z.dtype)) @ z.T)

    def amplification(self, means: Array, precisions_cholesky: Array) -> float:
        return amplification(means, precisions_cholesky)

    def mahalanobis(self, precisions_cholesky: Array, component: int, residual: Array, work: Array) -> Array:
        return whitened_square(precisions_cholesky, residual, work)

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals @ precisions_cholesky

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        np.multiply(residual, np.sqrt(weights), out=work)
        second += pack(work @ work.T)

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        total = unpack(second, offsets.shape[1]) - (soft_counts[:, None] * offsets).T @ offsets
        return total / soft_counts.sum()

    def divide_second(self, second: Array, n_components: int) -> Array:
        return second

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return vectors @ precisions_cholesky

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return unwhitened(precisions_cholesky, vectors.T).T

    def matrix_weights(self, weights: Array) -> Array:
        return weights.sum(keepdims=True)

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return relative_factor(origin, precisions_cholesky)[None]

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return shifted_factor(origin, coordinates[0])

    def prior_shape(self, n_features: int) -> tuple[int, ...]:
        return n_features, n_features

    def matrix_counts(self, soft_counts: Array) -> Array:
        return np.asarray(soft_counts.sum() / len(soft_counts))

    def multiply(self, covariances: Array, factors: Array) -> Array:
        return covariances * factors

    def outer_products(self, vectors: Array, weights: Array) -> Array:
        return np.asarray((weights[:, None] * vectors).T @ vectors / len(weights))


class Diag(CovarianceStructure):
    """Every component has its own variance for each feature; features are independent within a component."""

    name = DIAG

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

    def n_quadratic(self, n_features: int) -> int:
        return n_features

    def fill_quadratic(self, z: Array, out: Array) -> None:
        np.multiply(z, z, out=out)

    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        each = np.arange(n_features)
        return each, each, each

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

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals * precisions_cholesky[:, None]

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        np.multiply(residual, residual, out=work)
        second[component] += work @ weights

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        return second / soft_counts[:, None] - offsets**2

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky * vectors

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return vectors / precisions_cholesky

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(math.sqrt(2) * np.log(precisions_cholesky / origin))

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return np.asarray(origin * np.exp(coordinates / math.sqrt(2)))

    def outer_products(self, vectors: Array, weights: Array) -> Array:
        return weights[:, None] * vectors**2


class Spherical(CovarianceStructure):
    """Every component has one variance for all features."""

    name = SPHERICAL

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

    def n_quadratic(self, n_features: int) -> int:
        return 1

    def fill_quadratic(self, z: Array, out: Array) -> None:
        np.einsum("db,db->b", z, z, out=out[0])

    def quadratic_terms(self, n_features: int) -> tuple[Array, Array, Array]:
        each = np.arange(n_features)
        return each, each, np.zeros_like(each)

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

    def whiten_rows(self, precisions_cholesky: Array, residuals: Array) -> Array:
        return residuals * precisions_cholesky[:, None, None]

    def add_scatter(self, second: Array, component: int, residual: Array, weights: Array, work: Array) -> None:
        second[component] += float(np.dot(np.einsum("db,db->b", residual, residual), weights))

    def central_covariances(self, second: Array, soft_counts: Array, offsets: Array) -> Array:
        return (second / soft_counts - (offsets**2).sum(axis=1)) / offsets.shape[1]

    def whiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return precisions_cholesky[:, None] * vectors

    def unwhiten(self, precisions_cholesky: Array, vectors: Array) -> Array:
        return vectors / precisions_cholesky[:, None]

    def relative_coordinates(self, origin: Array, precisions_cholesky: Array, n_features: int) -> Array:
        return np.asarray(math.sqrt(2 * n_features) * np.log(precisions_cholesky / origin)[:, None])

    def from_relative_coordinates(self, origin: Array, coordinates: Array, n_features: int) -> Array:
        return np.asarray(origin * np.exp(coordinates[:, 0] / math.sqrt(2 * n_features)))

    def outer_products(self, vectors: Array, weights: Array) -> Array:
        return np.asarray(weights * (vectors**2).mean(axis=1))


def _reciprocal_deviations(variances: Array) -> Array:
    # Written so that NaN counts as bad too; a subnormal variance has no finite reciprocal.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        result = 1.0 / np.sqrt(variances)
        good = (variances > 0) & np.isfinite(variances) & np.isfinite(result * result)
    if not good.all():
        bad = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
        raise IllDefinedCovarianceError(tuple(int(k) for k in bad))
    return np.asarray(result)


def _check_positive(precision: Array, name: str) -> None:
    if not np.all((precision > 0.0) & np.isfinite(precision)):
        raise ValueError(f"'{name} precision' should be positive")


STRUCTURES: dict[str, CovarianceStructure] = {s.name: s for s in (Full(), Tied(), Diag(), Spherical())}
"""Every structure by its name, which is scikit-learn's ``covariance_type``."""
