"""Differences between two mixtures as vectors, in units of one of them.

The coordinates of a mixture relative to another, the origin, are a vector v without bounds: any v belongs to a mixture
with positive weights that sum to one and positive definite covariances. For the origin's weights w, means μ and
factors U (Σ⁻¹ = U Uᵀ) the vector holds

====================  ==============================================  =========
part                  entries                                         number
====================  ==============================================  =========
weights               √w_k (log w'_k/w_k − Σ_j w_j log w'_j/w_j)       K
means                 √w_k U_kᵀ (μ'_k − μ_k)                           K D
covariance matrices   √w_k times the structure's                       the rest
                      `relative_coordinates` of U'_k
====================  ==============================================  =========

With a row's component known, Fisher's information is the unit matrix in these coordinates: ½ ‖v‖² is, to leading order,
the Kullback-Leibler divergence per row, in nats. Lengths and angles therefore do not change with the units of the
features or with their zero points. The triangular matrices act on the factors as a group, and the coordinates are
relative to this group action, so vectors from different origins may be compared entry by entry.

A component of weight zero at the origin has coordinates zero, and does not move.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .mixture import MixtureParameters
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

_TINY = np.finfo(np.float64).tiny


def n_coordinates(structure: CovarianceStructure, n_components: int, n_features: int) -> int:
    """Number of coordinates of a mixture."""
    return n_components * (1 + n_features) + structure.n_covariance_parameters(n_components, n_features)


def displacement(origin: MixtureParameters, target: MixtureParameters) -> Array:
    """Compute the coordinates of ``target`` relative to ``origin``.

    Parameters
    ----------
    origin, target : MixtureParameters
        Mixtures of the same structure and size.

    Returns
    -------
    array of shape (n,)
    """
    structure, n_features = origin.structure, origin.n_features
    roots, matrix_roots = _roots(origin)
    change = np.log(np.maximum(target.weights, _TINY) / np.maximum(origin.weights, _TINY))
    change -= origin.weights @ change
    means = structure.whiten(origin.precisions_cholesky, target.means - origin.means)
    matrices = structure.relative_coordinates(origin.precisions_cholesky, target.precisions_cholesky, n_features)
    return _join(roots * change, roots[:, None] * means, matrix_roots[:, None] * matrices)


def displaced(origin: MixtureParameters, vector: Array) -> MixtureParameters:
    """Make the mixture with given coordinates relative to ``origin``; inverse of `displacement`.

    Parameters
    ----------
    origin : MixtureParameters
    vector : array of shape (n,)

    Returns
    -------
    MixtureParameters
        Contains infinity or NaN if the vector is too long for double precision; see `shortened`.
    """
    structure = origin.structure
    change, means, matrices = _components(origin, vector)
    with np.errstate(divide="ignore"):
        log_weights = np.log(origin.weights) + change
    weights = np.exp(log_weights - log_weights.max())
    return MixtureParameters.from_precisions_cholesky(
        structure,
        weights / weights.sum(),
        origin.means + structure.unwhiten(origin.precisions_cholesky, means),
        structure.from_relative_coordinates(origin.precisions_cholesky, matrices, origin.n_features),
    )


def shortened(origin: MixtureParameters, vector: Array, longest: float) -> Array:
    """Shorten a displacement so that no weight, mean or covariance matrix moves further than ``longest``.

    Parameters
    ----------
    origin : MixtureParameters
    vector : array of shape (n,)
    longest : float
        In standard deviations for a mean; in natural logarithms for a weight; for a matrix, √2 times the logarithm of a
        standard deviation.

    Returns
    -------
    array of shape (n,)
    """
    parts = [part * _factors(part, longest) for part in _components(origin, vector)]
    roots, matrix_roots = _roots(origin)
    return _join(roots * parts[0], roots[:, None] * parts[1], matrix_roots[:, None] * parts[2])


def _factors(part: Array, longest: float) -> Array:
    lengths = np.abs(part) if part.ndim == 1 else np.linalg.norm(part, axis=1, keepdims=True)
    return np.asarray(longest / np.maximum(lengths, longest))


def _roots(origin: MixtureParameters) -> tuple[Array, Array]:
    return np.sqrt(origin.weights), np.sqrt(origin.structure.matrix_weights(origin.weights))


def _join(weights: Array, means: Array, matrices: Array) -> Array:
    return np.concatenate([weights, means.ravel(), matrices.ravel()])


def _components(origin: MixtureParameters, vector: Array) -> tuple[Array, Array, Array]:
    """Displacement of every weight, mean and matrix, without the factors √w."""
    k, d = origin.means.shape
    weights, means, matrices = np.split(vector, [k, k + k * d])
    roots, matrix_roots = (_reciprocals(r) for r in _roots(origin))
    return (
        weights * roots,
        means.reshape(k, d) * roots[:, None],
        matrices.reshape(len(matrix_roots), -1) * matrix_roots[:, None],
    )


def _reciprocals(roots: Array) -> Array:
    return np.where(roots > 0, 1 / np.where(roots > 0, roots, 1), 0)
