"""Groups of coinciding components, each of which one component could replace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .mixture import MixtureParameters

Array = np.ndarray[Any, np.dtype[Any]]

#: Largest Kullback-Leibler divergence of components that coincide, in nats per row: for instance means a tenth of a
#: standard deviation apart, or a variance that differs by a seventh.
DIVERGENCE = 0.005

# Divergences are computed to leading order: a pair that exceeds the bounds in a single feature by this factor is not
# examined further.
_SLACK = 1.5

_FIRST_FEATURES = 4


def coinciding(parameters: MixtureParameters, candidates: Array) -> list[tuple[int, ...]]:
    """Find groups of components whose densities are nearly equal, whatever their weights.

    Parameters
    ----------
    parameters : MixtureParameters
    candidates : array of int
        Components to compare, ascending.

    Returns
    -------
    list of tuple of int
        Groups of two or more components.
    """
    groups: dict[int, list[int]] = {}
    variances = parameters.structure.marginal_variances(
        parameters.covariances, parameters.n_components, parameters.n_features
    )
    log_variances = np.log(variances)
    for component in candidates.tolist():
        leaders = np.fromiter(groups, np.int64, len(groups))
        near = _near(parameters.means, variances, log_variances, component, leaders)
        near = near[_from_means(parameters, component, near) < DIVERGENCE]
        near = near[_from_means(parameters, component, near) + _from_matrices(parameters, component, near) < DIVERGENCE]
        groups.setdefault(int(near[0]) if len(near) else component, []).append(component)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _near(means: Array, variances: Array, log_variances: Array, component: int, others: Array) -> Array:
    """Components close to one in every single feature: the divergence in one feature is a lower bound."""
    for features in (slice(None, _FIRST_FEATURES), slice(_FIRST_FEATURES, None)):
        shifts = means[others, features] - means[component, features]
        ratios = log_variances[others, features] - log_variances[component, features]
        close = shifts**2 <= _SLACK * 2 * DIVERGENCE * variances[component, features]
        close &= np.abs(ratios) <= _SLACK * 2 * math.sqrt(DIVERGENCE)
        others = others[close.all(axis=1)]
    return others


def _from_means(parameters: MixtureParameters, component: int, others: Array) -> Array:
    """Kullback-Leibler divergences of other components from one by their means alone, in nats, shape (n,)."""
    structure = parameters.structure
    origin = structure.take(parameters.precisions_cholesky, np.full(len(others), component))
    shifts = structure.whiten(origin, parameters.means[others] - parameters.means[component])
    return np.asarray(0.5 * (shifts**2).sum(axis=1))


def _from_matrices(parameters: MixtureParameters, component: int, others: Array) -> Array:
    """Divergences by the covariances alone, to leading order, shape (n,); added to those of `_from_means`."""
    if not len(others):
        return np.empty(0)
    structure, factors = parameters.structure, parameters.precisions_cholesky
    origin, targets = structure.take(factors, np.full(len(others), component)), structure.take(factors, others)
    changes = structure.relative_coordinates(origin, targets, parameters.n_features)
    return np.asarray(0.5 * (changes**2).sum(axis=1))
