"""EM for a Gaussian mixture as one writes it with dask.array alone, for rows in blocks of the first axis."""

from __future__ import annotations

import math
from typing import Any

import dask
import dask.array as da
import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

Array = np.ndarray[Any, np.dtype[Any]]


def log_joint(block: Array, weights: Array, means: Array, covariances: Array) -> Array:
    """Log density of each row under each component, weighted: rows × components."""
    columns = []
    for weight, mean, root in zip(weights, means, np.linalg.cholesky(covariances), strict=True):
        whitened = (block - mean) @ solve_triangular(root, np.eye(len(root)), lower=True).T
        columns.append(math.log(weight) - np.log(np.diag(root)).sum() - (whitened**2).sum(axis=1) / 2)
    return np.stack(columns, axis=1) - block.shape[1] / 2 * math.log(2 * math.pi)


def fit_mixture(
    x: da.Array, weights: Array, means: Array, covariances: Array, reg_covar: float, max_iter: int, tol: float
) -> tuple[Array, Array, Array, int]:
    """Weights, means, covariances and number of iterations; one computation for each iteration."""
    (n_rows, n_features), n_components = x.shape, len(weights)
    n_iter, change, previous = 0, math.inf, -math.inf
    while n_iter < max_iter and change >= tol:
        parameters = {"weights": weights, "means": means, "covariances": covariances}
        joint = x.map_blocks(log_joint, **parameters, chunks=(x.chunks[0], (n_components,)), dtype=float)
        log_density = joint.map_blocks(logsumexp, axis=1, drop_axis=1, dtype=float)
        responsibilities = da.exp(joint - log_density[:, None])
        shifted = [x - mean for mean in means]  # from the old means: products of the rows themselves would cancel
        columns = [responsibilities[:, k, None] for k in range(n_components)]
        counts, sums, products, log_likelihood = dask.compute(
            responsibilities.sum(axis=0),
            da.stack([(r * s).sum(axis=0) for r, s in zip(columns, shifted, strict=True)]),
            da.stack([(r * s).T @ s for r, s in zip(columns, shifted, strict=True)]),
            log_density.mean(),
        )
        steps = sums / counts[:, None]
        weights, means = counts / n_rows, means + steps
        covariances = products / counts[:, None, None] - steps[:, :, None] * steps[:, None, :]
        covariances += reg_covar * np.eye(n_features)
        n_iter, change, previous = n_iter + 1, abs(log_likelihood - previous), log_likelihood
    return weights, means, covariances, n_iter
