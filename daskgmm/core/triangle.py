"""Symmetric and triangular matrices: packed triangles, and Cholesky factors of precisions."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dtrtrs

Array = np.ndarray[Any, np.dtype[Any]]

# Rows of a triangular product that are computed together.
_PANEL = 32

_EPS = float(np.finfo(np.float64).eps)

# Largest admissible relative error of a covariance's determinant, to first order, from rounding its entries once.
# Errors of log-densities, in nats, were measured to be 0.1 to 3 times as large.
_LARGEST_DETERMINANT_ERROR = 1e-2


def triangle_size(n_features: int) -> int:
    """Number of entries of a symmetric (D, D) matrix on and above its diagonal."""
    return n_features * (n_features + 1) // 2


def pack(matrix: Array) -> Array:
    """Upper triangle of symmetric matrices, row by row: (…, D, D) -> (…, D (D + 1) / 2)."""
    i, j = triangle(matrix.shape[-1])
    return matrix[..., i, j]


def unpack(packed: Array, n_features: int) -> Array:
    """Inverse of `pack`."""
    matrix = np.empty((*packed.shape[:-1], n_features, n_features), packed.dtype)
    i, j = triangle(n_features)
    matrix[..., i, j] = packed
    matrix[..., j, i] = packed
    return matrix


@lru_cache(maxsize=8)
def triangle(n_features: int) -> tuple[Array, Array]:
    """Row and column of every entry on and above the diagonal."""
    # A block's scatter is packed once for each component: finding the indices anew would take longer than using them.
    return np.triu_indices(n_features)


def whitened_square(upper: Array, residual: Array, work: Array) -> Array:
    """Squared length ‖Uᵀx‖² of every column x of ``residual``; overwrites ``work``."""
    # Panels skip most of the zeros of the triangle; SciPy's triangular product would skip all, but holds the GIL.
    for start in range(0, len(upper), _PANEL):
        stop = start + _PANEL
        np.matmul(upper[:stop, start:stop].T, residual[:stop], out=work[start:stop])
    return np.asarray(np.einsum("db,db->b", work, work))


def invert_cholesky(covariances: Array) -> tuple[Array, Array]:
    """Factor the inverses of covariance matrices, (n, D, D).

    Returns
    -------
    factors : array of shape (n, D, D)
        Upper triangular U with covariance⁻¹ = U Uᵀ; zeros in place of a factor that is not good.
    good : array of shape (n,)
        False if a matrix is not finite, or not positive definite by more than its rounding: then a feature is a linear
        combination of others in double precision.

    Notes
    -----
    Errors of ε √(Σ_ii Σ_jj) in the entries change log det Σ by at most ε Σ_ij |Σ⁻¹_ij| √(Σ_ii Σ_jj), to first order.
    The trace of the scaled inverse, ‖diag(Σ)^½ U‖²_F, equals this sum up to a factor of D, and does not depend on the
    units of the features.
    """
    lower = _cholesky(covariances)
    good = np.isfinite(lower).all(axis=(1, 2))
    lower[~good] = unit = np.eye(lower.shape[1])
    # SciPy's own function for one matrix spends ten times as long on its arguments as on a small matrix.
    inverse = np.stack([dtrtrs(each.T, unit, lower=0, trans=1)[0] for each in lower])
    # Subnormal variances have reciprocals beyond the largest double.
    with np.errstate(over="ignore", invalid="ignore"):
        deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        scaled = np.square(inverse * deviations[:, None, :]).sum(axis=(1, 2))
        good &= np.isfinite(np.square(inverse).sum(axis=(1, 2))) & (_EPS * scaled <= _LARGEST_DETERMINANT_ERROR)
    factors = np.ascontiguousarray(inverse.transpose(0, 2, 1))
    factors[~good] = 0
    return factors, good


def _cholesky(matrices: Array) -> Array:
    """Lower Cholesky factors; NaN in place of the factor of a matrix that is not positive definite."""
    try:
        return np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full_like(matrices, np.nan)
    return np.concatenate([_cholesky(each[None]) for each in matrices])


def upper_factor(precision: Array) -> Array:
    """Factor a precision = U Uᵀ with U upper triangular: the Cholesky factor of the matrix with both axes reversed."""
    return np.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1].copy()


def is_upper_factor(matrices: Array) -> bool:
    """Test matrices, (…, D, D), for zeros below a positive diagonal."""
    return bool((np.tril(matrices, -1) == 0).all() and (np.diagonal(matrices, axis1=-2, axis2=-1) > 0).all())


def gram_inverse(upper: Array) -> Array:
    """Inverse of U Uᵀ."""
    inverse = solve_triangular(upper, np.eye(len(upper)), lower=False, check_finite=False)
    return np.asarray(inverse.T @ inverse)


def unwhitened(upper: Array, columns: Array) -> Array:
    """Product U⁻ᵀ x for every column x."""
    return np.asarray(solve_triangular(upper, columns, lower=False, trans=1, check_finite=False))


def relative_factor(origin: Array, upper: Array) -> Array:
    """Coordinates of T = origin⁻¹ upper, any real numbers: √2 log T_ii, then T_ij for i < j, row by row.

    In these coordinates of the tangent space at the origin, the Fisher metric, ½ ‖T + Tᵀ − 2‖², is Euclidean.
    """
    relative = solve_triangular(origin, upper, lower=False, check_finite=False)
    return np.concatenate([math.sqrt(2) * np.log(np.diagonal(relative)), relative[_above(len(origin))]])


def shifted_factor(origin: Array, coordinates: Array) -> Array:
    """Inverse of `relative_factor`."""
    n_features = len(origin)
    relative = np.diag(np.exp(coordinates[:n_features] / math.sqrt(2)))
    relative[_above(n_features)] = coordinates[n_features:]
    return np.asarray(origin @ relative)


@lru_cache(maxsize=8)
def _above(n_features: int) -> tuple[Array, Array]:
    return np.triu_indices(n_features, 1)


def amplification(means: Array, uppers: Array) -> float:
    """Largest λmax(Σ_k⁻¹) (‖μ_k‖ + 3 √λmax(Σ_k))² for precisions U Uᵀ, (D, D) or (K, D, D)."""
    reciprocals = np.linalg.svd(uppers, compute_uv=False)  # of the principal standard deviations, (D,) or (K, D)
    row_norm = np.linalg.norm(means, axis=1) + 3 / reciprocals[..., -1]
    return float(((reciprocals[..., 0] * row_norm) ** 2).max())


def check_positive_definite(precision: Array, name: str) -> None:
    """Raise ValueError unless the matrix is symmetric and positive definite."""
    tolerance = 1e-8 * float(np.abs(precision).max(initial=0))
    symmetric = np.isfinite(tolerance) and np.allclose(precision, precision.T, rtol=1e-5, atol=tolerance)
    if not (symmetric and np.all(np.linalg.eigvalsh(precision) > 0.0)):
        raise ValueError(f"'{name} precision' should be symmetric, positive-definite")
