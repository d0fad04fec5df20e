"""Rows of random mixtures, whose components overlap or are apart as much as was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Drawing:
    """A mixture drawn at random, whose means are apart as far as the overlap asks for."""

    n_features: int
    overlap: float
    """The Bayes error."""
    seed: int
    concentration: float = 3.0
    """Of the Dirichlet distribution of the weights: the smaller, the more unequal they are."""

    def __call__(self, n_rows: int, n_components: int, covariance_type: str) -> Array:
        rng = np.random.default_rng(self.seed)
        weights, means, roots = self.mixture(rng, n_components, covariance_type)
        residuals, labels = draw(rng, n_rows, weights, roots)
        return residuals + means[labels]

    def mixture(self, rng: np.random.Generator, n_components: int, covariance_type: str) -> tuple[Array, Array, Array]:
        """Weights, means, and lower triangular roots of the covariances, shape (K, D, D)."""
        roots = COVARIANCE_ROOTS[covariance_type](rng, n_components, self.n_features)
        directions = rng.normal(size=(n_components, self.n_features))
        weights = rng.dirichlet(np.full(n_components, self.concentration))
        trial = draw(np.random.default_rng(0), 20_000, weights, roots)
        low, high = 0.0, 1e3
        for _ in range(30):
            spread = (low + high) / 2
            apart = bayes_error(*trial, weights, spread * directions, roots) < self.overlap
            low, high = (low, spread) if apart else (spread, high)
        return weights, high * directions, roots


def draw(rng: np.random.Generator, n_rows: int, weights: Array, roots: Array) -> tuple[Array, Array]:
    """Rows less the means of their components, and the components."""
    labels = rng.choice(len(weights), size=n_rows, p=weights)
    residuals = rng.normal(size=(n_rows, roots.shape[1]))
    for k, root in enumerate(roots):
        residuals[labels == k] = residuals[labels == k] @ root.T
    return residuals, labels


def bayes_error(residuals: Array, labels: Array, weights: Array, means: Array, roots: Array) -> float:
    """Share of these rows, residuals about the means of their components, that belong to another one; in expectation.

    Parameters
    ----------
    residuals : ndarray of shape (n, D)
    labels : ndarray of shape (n,)
        Components that the rows were drawn from.
    weights : ndarray of shape (K,)
    means : ndarray of shape (K, D)
    roots : ndarray of shape (K, D, D)
        Lower triangular L, where L Lᵀ is a covariance.
    """
    rows = residuals + means[labels]
    log_joint = np.empty((len(rows), len(weights)))
    for k, root in enumerate(roots):
        whitened = (rows - means[k]) @ np.linalg.inv(root).T
        log_joint[:, k] = math.log(weights[k]) - np.log(np.diag(root)).sum() - (whitened**2).sum(axis=1) / 2
    return float(1 - np.exp(log_softmax(log_joint, axis=1).max(axis=1)).mean())


def _full_roots(rng: np.random.Generator, k: int, d: int) -> Array:
    factors = rng.normal(size=(k, d, d)) / math.sqrt(d)
    return np.linalg.cholesky(factors @ factors.transpose(0, 2, 1) + 0.2 * np.eye(d))


def _diagonal_roots(deviations: Array) -> Array:
    return deviations[:, :, None] * np.eye(deviations.shape[1])


COVARIANCE_ROOTS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "full": _full_roots,
    "tied": lambda rng, k, d: np.repeat(_full_roots(rng, 1, d), k, axis=0),
    "diag": lambda rng, k, d: _diagonal_roots(np.exp(rng.normal(scale=0.5, size=(k, d)))),
    "spherical": lambda rng, k, d: _diagonal_roots(np.exp(rng.normal(scale=0.5, size=(k, 1))) * np.ones(d)),
}
"""Lower triangular roots of random covariances, shape (K, D, D), by structure, K and D."""


# ---- components that are apart


@dataclass(frozen=True)
class SeparatedDrawing:
    """A mixture with full covariances, drawn at random, whose closest components are ``distance`` apart.

    Weights are uneven, up to a factor of ten. Centres are placed one after the other, each at random but apart from the
    others, from an area that grows when no place is left, so that most components have close neighbours.
    """

    n_features: int
    seed: int
    distance: float = 8.0
    """Bhattacharyya's, of the closest pair."""

    def __call__(self, n_rows: int, n_components: int, _covariance_type: str) -> Array:
        weights, means, roots = self.mixture(n_components)
        residuals, labels = draw(self._generator(n_components, 1), n_rows, weights, roots)
        return residuals + means[labels]

    def mixture(self, n_components: int) -> tuple[Array, Array, Array]:
        """Weights, means, and lower triangular roots of the covariances, shape (K, D, D)."""
        rng, k, d = self._generator(n_components, 0), n_components, self.n_features
        weights = np.exp(rng.uniform(0, math.log(10), size=k))
        widths = rng.uniform(0.4, 1.4, size=(k, 1, 1))
        factors = rng.normal(size=(k, d, d)) / (2 * math.sqrt(d)) + widths * np.eye(d)
        roots = np.linalg.cholesky(factors @ factors.transpose(0, 2, 1))
        means, spread = np.empty((k, d)), 1.0
        for i in range(k):
            means[i] = spread * rng.normal(size=d)
            while i and bhattacharyya(means[: i + 1], roots[: i + 1])[i, :i].min() < self.distance:
                spread *= 1.02
                means[i] = spread * rng.normal(size=d)
        return weights / weights.sum(), means * self._contraction(means, roots), roots

    def _contraction(self, means: Array, roots: Array) -> float:
        """Factor of all means after which the closest pair is as far apart as was asked for.

        Only the part of a distance that is quadratic in the difference of the means changes.
        """
        pairs = np.triu_indices(len(means), 1)
        of_shapes = bhattacharyya(np.zeros_like(means), roots)[pairs]
        of_means = bhattacharyya(means, roots)[pairs] - of_shapes
        return math.sqrt(((self.distance - of_shapes) / of_means).max())

    def _generator(self, n_components: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.n_features, n_components, purpose])


def bhattacharyya(means: Array, roots: Array) -> Array:
    """Bhattacharyya distances between all pairs of normal distributions, shape (K, K)."""
    covariances = roots @ roots.transpose(0, 2, 1)
    averages = (covariances[:, None] + covariances) / 2
    differences = means[:, None] - means
    squares = (differences * np.linalg.solve(averages, differences[..., None])[..., 0]).sum(axis=-1)
    log_dets = np.linalg.slogdet(covariances).logabsdet
    excess = np.linalg.slogdet(averages).logabsdet - (log_dets[:, None] + log_dets) / 2
    return squares / 8 + excess / 2
