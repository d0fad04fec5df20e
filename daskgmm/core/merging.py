"""Merging of components: fewer components that lose the least likelihood.

Merging the components i and j costs at most, in nats for each unit of weight (Runnalls, IEEE Trans. Aerosp. Electron.
Syst. 43, 2007),

    B(i, j) = ½ [(w_i + w_j) log det Σ_ij − w_i log det Σ_i − w_j log det Σ_j],

where Σ_ij is the covariance of both components together. If all components share one covariance, the cost of a merge
is ½ (log det Σ' − log det Σ), where the shared covariance Σ' has taken up the scatter between the two means.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .mixture import MixtureParameters
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Only the nearest components are candidates: the cheapest merge is nearly always one of two neighbours, and a cost
# takes D³ operations.
_NEIGHBOURS = 12


def merge(parameters: MixtureParameters, n_components: int) -> MixtureParameters:
    """Merge the pair with the least cost, again and again, until ``n_components`` components are left.

    Parameters
    ----------
    parameters : MixtureParameters
    n_components : int
        Number of components that are left, 1 to K.

    Returns
    -------
    MixtureParameters
        Mixture with the mean and, in the form of the structure, the covariance of the given mixture.

    Raises
    ------
    IllDefinedCovarianceError
        If rounding left no positive definite covariance.
    """
    if parameters.n_components == n_components:
        return parameters
    merger = _Merger(parameters)
    while len(merger.alive) > n_components:
        merger.merge(*merger.cheapest())
    return merger.parameters()


def cheapest_merges(parameters: MixtureParameters) -> list[tuple[int, int]]:
    """Pairs of components in ascending order of the cost of merging them, no component twice."""
    costs, pairs = _Merger(parameters).costs, list[tuple[int, int]]()
    for flat in np.argsort(costs, axis=None, kind="stable")[: np.count_nonzero(costs < np.inf)].tolist():
        one, other = sorted(divmod(flat, len(costs)))
        if not any(one in pair or other in pair for pair in pairs):
            pairs.append((one, other))
    return pairs


class _Merger:
    """Components that are merged in place: the merged component has the number of the first one."""

    def __init__(self, parameters: MixtureParameters) -> None:
        structure = self._structure = parameters.structure
        self._own: CovarianceStructure = replace(structure, shared=False)
        self._weights, self._means = parameters.weights.copy(), parameters.means.copy()
        self._covariances = parameters.covariances.copy()
        n, self._n_features = parameters.means.shape
        self._log_dets = self._own.log_det(self._covariances, self._n_features)
        self._variances = structure.marginal_variances(self._covariances, n, self._n_features).copy()
        self.alive = np.arange(n)
        self.costs = np.full((n, n), np.inf)
        """Cost of merging each pair, (K, K); infinity for pairs that are no candidates."""
        for component in range(n):
            self._update(component)
        self._least = self.costs.min(axis=1)  # of each row: a search of all costs at each merge takes K³ operations

    def cheapest(self) -> tuple[int, int]:
        """Pair with the least cost; the smaller number first."""
        one = int(self._least.argmin())
        other = int(self.costs[one].argmin())
        if (
            not self.costs[one, other] < np.inf
        ):  # every candidate is ill-defined: any two, which the next E-step sorts out
            one, other = self.alive[0], self.alive[1]
        return min(one, other), max(one, other)

    def merge(self, one: int, other: int) -> None:
        """Merge two components into ``one``."""
        pair = np.array([other])
        means, matrices = self._joint(one, pair)
        self._covariances[0 if self._structure.shared else one] = matrices[0]
        self._means[one] = means[0]
        self._weights[one] += self._weights[other]
        self._weights[other] = 0
        self.alive = self.alive[self.alive != other]
        rows = self._candidates_of(one, other)
        self.costs[[one, other]] = np.inf
        self.costs[:, [one, other]] = np.inf
        changed = np.array([0 if self._structure.shared else one])
        self._log_dets[changed] = self._own.log_det(matrices, self._n_features)
        variances = self._own.marginal_variances(matrices, 1, self._n_features)
        self._variances[slice(None) if self._structure.shared else one] = variances[0]
        self._update(one)
        rows = np.union1d(rows, self._candidates_of(one))
        self._least[rows] = self.costs[rows].min(axis=1)

    def _candidates_of(self, *components: int) -> Array:
        """Numbers of the components and of those with which they may be merged."""
        return np.union1d(components, np.flatnonzero((self.costs[:, components] != np.inf).any(axis=1)))

    def parameters(self) -> MixtureParameters:
        """Mixture of the components that are left."""
        weights = self._weights[self.alive]
        covariances = self._structure.take(self._covariances, self.alive)
        return MixtureParameters.from_covariances(
            self._structure, weights / weights.sum(), self._means[self.alive], covariances
        )

    def _update(self, component: int) -> None:
        """Compute the costs of merging a component with its neighbours."""
        others = self._neighbours(component)
        if not len(others):
            return
        costs = self._merge_costs(component, others)
        self.costs[component, others] = self.costs[others, component] = costs

    def _neighbours(self, component: int) -> Array:
        others = self.alive[self.alive != component]
        if len(others) <= _NEIGHBOURS:
            return others
        variances = self._variances[others] + self._variances[component]
        distances = ((self._means[others] - self._means[component]) ** 2 / variances).sum(axis=1)
        return np.asarray(others[np.argsort(distances, kind="stable")[:_NEIGHBOURS]])

    def _merge_costs(self, one: int, others: Array) -> Array:
        joint = self._own.log_det(self._joint(one, others)[1], self._n_features)
        if self._structure.shared:
            return 0.5 * (joint - self._log_dets[0])
        first, second = self._weights[one], self._weights[others]
        costs = 0.5 * ((first + second) * joint - first * self._log_dets[one] - second * self._log_dets[others])
        return np.asarray(np.where(np.isnan(costs), np.inf, costs))

    def _joint(self, one: int, others: Array) -> tuple[Array, Array]:
        """Means, (n, D), and matrices, one each, of a component merged with each of the others."""
        first, second = self._weights[one], self._weights[others]
        both = first + second
        share = np.divide(second, both, out=np.full_like(both, 0.5), where=both > 0)
        apart = self._means[others] - self._means[one]
        means = self._means[one] + share[:, None] * apart
        if self._structure.shared:
            within = np.repeat(self._covariances, len(others), axis=0)
            return means, within + self._own.outer_products(apart, share * first)
        within = self._own.multiply(np.repeat(self._covariances[one : one + 1], len(others), axis=0), 1 - share)
        within += self._own.multiply(self._covariances[others], share)
        return means, within + self._own.outer_products(apart, share * (1 - share))
