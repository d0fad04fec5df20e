"""Merging of components: fewer components that lose the least likelihood.

Merging the components i and j costs at most, in nats for each unit of weight (Runnalls, IEEE Trans. Aerosp. Electron.
Syst. 43, 2007),

    B(i, j) = ½ [(w_i + w_j) log det Σ_ij − w_i log det Σ_i − w_j log det Σ_j],

where Σ_ij is the covariance of both components together. If all components share one covariance, the cost of a merge
is ½ (log det Σ' − log det Σ), where the shared covariance Σ' has taken up the scatter between the two means.

The cheapest pair is merged first, and its component is a candidate for the next merge. Several of the cheapest pairs
that have no component in common are merged in one step, as long as one merge after the other would choose the same
pairs: no component that a pair becomes may have a merge that costs less than the next pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .mixture import MixtureParameters
from .row_blocks import blocks
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Only the nearest components are candidates: the cheapest merge is nearly always one of two neighbours, and a cost
# takes D³ operations.
_NEIGHBOURS = 12

# Pairs that a step tries to merge: at first, and at most.
_FEWEST_PAIRS, _MOST_PAIRS = 8, 64

# Pairs that are searched for each pair that is merged.
_SEARCHED = 8

# Bytes of the largest arrays of a step.
_STEP_BYTES = 1 << 18


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
    while surplus := int(merger.alive.sum()) - n_components:
        merger.step(surplus)
    return merger.parameters()


def cheapest_merges(parameters: MixtureParameters) -> list[tuple[int, int]]:
    """Pairs of components in ascending order of the cost of merging them, no component twice."""
    candidates = _Merger(parameters).candidates
    pairs = candidates.cheapest(len(candidates))
    return list(zip(pairs.one.tolist(), pairs.other.tolist(), strict=True))


@dataclass(frozen=True)
class _Pairs:
    """Pairs of components, and the cost of merging each."""

    one: Array
    """Smaller number of each pair, (n,)."""
    other: Array
    cost: Array

    def __getitem__(self, chosen: Any) -> _Pairs:
        return _Pairs(self.one[chosen], self.other[chosen], self.cost[chosen])

    def __len__(self) -> int:
        return len(self.cost)

    def joined(self, more: _Pairs) -> _Pairs:
        """Join two lists of pairs."""
        return _Pairs(np.append(self.one, more.one), np.append(self.other, more.other), np.append(self.cost, more.cost))

    def cheapest(self, limit: int) -> _Pairs:
        """Return up to ``limit`` pairs in ascending order of their costs, without a component of an earlier pair."""
        first, taken, chosen = np.arange(len(self)), set[int](), list[int]()
        if len(self) > _SEARCHED * limit:  # the cheapest ones suffice: if they are fewer pairs, none is left out before
            first = np.argpartition(self.cost, _SEARCHED * limit)[: _SEARCHED * limit]
        order = first[np.argsort(self.cost[first], kind="stable")]
        for place, one, other in zip(order.tolist(), self.one[order].tolist(), self.other[order].tolist(), strict=True):
            if one not in taken and other not in taken:
                taken |= {one, other}
                chosen.append(place)
                if len(chosen) == limit:
                    break
        return self[np.array(chosen, np.intp)]


class _Merger:
    """Components that are merged in place: the merged component has the number of the first one.

    A step writes the components that its pairs become behind the K components, and a shared covariance after each of
    its merges behind the present one.
    """

    def __init__(self, parameters: MixtureParameters) -> None:
        structure = self._structure = parameters.structure
        self._own: CovarianceStructure = replace(structure, shared=False)
        (self._n, self._n_features), matrices = parameters.means.shape, parameters.covariances
        self._n_matrices = len(matrices)
        self._most = min(_MOST_PAIRS, self._n // 2)
        self._weights, self._means = self._extended(parameters.weights), self._extended(parameters.means)
        self._covariances = self._extended(matrices)
        self._log_dets = self._extended(self._own.log_det(matrices, self._n_features))
        self._variances = self._extended(self._own.marginal_variances(matrices, len(matrices), self._n_features))
        self._n_pairs = _FEWEST_PAIRS
        self.alive = np.ones(self._n, bool)
        every = np.arange(self._n)
        row, other = self._nearest(every, np.zeros_like(every), every, every[:, None] != every)
        one, other = np.divmod(np.unique(np.minimum(row, other) * self._n + np.maximum(row, other)), self._n)
        self.candidates = self._pairs(one, other, np.zeros_like(one))

    def _extended(self, values: Array) -> Array:
        """Append room for the results of a step."""
        return np.append(values, np.zeros((self._most, *values.shape[1:])), axis=0)

    def parameters(self) -> MixtureParameters:
        """Mixture of the components that are left."""
        alive = np.flatnonzero(self.alive)
        weights, covariances = self._weights[alive], self._covariances[: self._n_matrices]
        return MixtureParameters.from_covariances(
            self._structure,
            weights / weights.sum(),
            self._means[alive],
            self._structure.take(covariances, alive),
        )

    def step(self, limit: int) -> None:
        """Merge up to ``limit`` of the cheapest pairs."""
        pairs = self.candidates.cheapest(min(limit, self._n_pairs))
        if not len(pairs):  # every candidate is ill-defined: any two, which the next E-step sorts out
            one, other = np.flatnonzero(self.alive)[:2, None]
            pairs = _Pairs(one, other, np.full(1, np.inf))
        self._try(pairs)
        number = np.arange(len(pairs))
        columns = np.append(np.flatnonzero(self.alive), self._n + number)
        row, other = self._nearest(self._n + number, 1 + number, columns, self._allowed(pairs, columns))
        found = self._pairs(other, self._n + row, 1 + row)
        least = np.full(len(pairs), np.inf)
        np.minimum.at(least, found.other - self._n, found.cost)
        # The next pair is settled if no component that an earlier pair becomes has a cheaper merge.
        settled = np.append(True, pairs.cost[1:] <= np.minimum.accumulate(least)[:-1])
        n_merged = len(pairs) if settled.all() else int(settled.argmin())
        self._n_pairs = min(self._most, 2 * n_merged)
        self._accept(pairs[:n_merged], found)

    def _try(self, pairs: _Pairs) -> None:
        """Compute the components that the pairs become."""
        one, other, n = pairs.one, pairs.other, len(pairs)
        weights, share, apart = self._joined(one, other)
        here = slice(self._n, self._n + n)
        self._weights[here], self._means[here] = weights, self._means[one] + share[:, None] * apart
        here = slice(self._n_matrices, self._n_matrices + n)
        if self._structure.shared:
            scatter = self._own.outer_products(apart, share * self._weights[one])
            matrices = self._covariances[:1] + np.cumsum(scatter, axis=0)
        else:
            matrices = self._joint_matrices(one, other, one)
        self._covariances[here] = matrices
        self._log_dets[here] = self._own.log_det(matrices, self._n_features)
        self._variances[here] = self._own.marginal_variances(matrices, n, self._n_features)

    def _allowed(self, pairs: _Pairs, columns: Array) -> Array:
        """Mask of the components that exist when each of the pairs has been merged, (pairs, columns)."""
        born, dies = np.zeros(self._n + len(pairs)), np.full(self._n + len(pairs), len(pairs))
        born[self._n :] = 1 + np.arange(len(pairs))
        dies[pairs.one] = dies[pairs.other] = np.arange(len(pairs))
        step = np.arange(len(pairs))[:, None]
        return np.asarray((born[columns] <= step) & (step < dies[columns]))

    def _accept(self, pairs: _Pairs, found: _Pairs) -> None:
        """Put the first components of a step in place, with the costs of their merges."""
        n = len(pairs)
        for values in (self._weights, self._means):
            values[pairs.one] = values[self._n : self._n + n]
        for values in (self._covariances, self._log_dets, self._variances):
            new = values[self._n_matrices : self._n_matrices + n]
            if self._structure.shared:
                values[0] = new[-1]
            else:
                values[pairs.one] = new
        self._weights[pairs.other] = 0
        self.alive[pairs.other] = False
        gone = np.zeros(self._n + self._most, bool)
        gone[pairs.one] = gone[pairs.other] = gone[self._n + n :] = True
        kept, found = (each[~(gone[each.one] | gone[each.other])] for each in (self.candidates, found))
        place = np.append(np.arange(self._n), pairs.one)
        ends = place[found.one], place[found.other]
        self.candidates = kept.joined(_Pairs(np.minimum(*ends), np.maximum(*ends), found.cost))

    # ---- candidates

    def _nearest(self, components: Array, shared: Array, columns: Array, allowed: Array) -> tuple[Array, Array]:
        """Nearest ``columns`` to some components, among the ``allowed`` ones.

        Parameters
        ----------
        components : array of shape (n,)
        shared : array of shape (n,)
            Number of the shared covariance for each component.
        columns : array of shape (m,)
        allowed : array of shape (n, m)

        Returns
        -------
        rows, neighbours : arrays of integers
            Positions in ``components``, and numbers of components.
        """
        n_columns = len(columns)
        nearest = np.broadcast_to(np.arange(n_columns), allowed.shape)
        if n_columns > _NEIGHBOURS:
            nearest = np.empty((len(components), _NEIGHBOURS), np.intp)
            for block in _in_steps(len(components), 8 * n_columns):
                distances = self._distances(components[block], shared[block], columns)
                distances[~allowed[block]] = np.inf
                nearest[block] = distances.argpartition(_NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        rows, place = np.nonzero(np.take_along_axis(allowed, nearest, axis=1))
        return rows, columns[nearest[rows, place]]

    def _distances(self, components: Array, shared: Array, columns: Array) -> Array:
        """Squared differences of the means in units of the variances, summed over the features, (n, m)."""
        distances, is_shared = np.zeros((len(components), len(columns))), self._structure.shared
        for means, variances in zip(self._means.T, self._variances.T, strict=True):
            own = variances[shared if is_shared else components, None]
            apart = means[components, None] - means[columns]
            apart *= apart
            apart /= own + (own if is_shared else variances[columns])
            distances += apart
        return distances

    def _pairs(self, one: Array, other: Array, shared: Array) -> _Pairs:
        """Pairs with the costs of their merges, if they are finite; ``shared`` are numbers of shared covariances."""
        cost = np.empty(len(one))
        for block in _in_steps(len(one), 8 * self._n_features**2):
            cost[block] = self._costs(one[block], other[block], shared[block])
        return _Pairs(one, other, cost)[cost < np.inf]

    def _costs(self, one: Array, other: Array, shared: Array) -> Array:
        joint = self._own.log_det(self._joint_matrices(one, other, shared), self._n_features)
        if self._structure.shared:
            return 0.5 * (joint - self._log_dets[shared])
        first, second = self._weights[one], self._weights[other]
        costs = 0.5 * ((first + second) * joint - first * self._log_dets[one] - second * self._log_dets[other])
        return np.asarray(np.where(np.isnan(costs), np.inf, costs))

    def _joint_matrices(self, one: Array, other: Array, shared: Array) -> Array:
        """Covariances of pairs of components, one each; ``shared`` are the numbers of shared ones before the merge."""
        _, share, apart = self._joined(one, other)
        if self._structure.shared:
            return self._covariances[shared] + self._own.outer_products(apart, share * self._weights[one])
        within = self._own.multiply(self._covariances[one], 1 - share)
        within += self._own.multiply(self._covariances[other], share)
        return within + self._own.outer_products(apart, share * (1 - share))

    def _joined(self, one: Array, other: Array) -> tuple[Array, Array, Array]:
        """Weights of pairs of components, shares of the second ones in them, and differences of the means."""
        second = self._weights[other]
        both = self._weights[one] + second
        share = np.divide(second, both, out=np.full_like(both, 0.5), where=both > 0)
        return both, share, self._means[other] - self._means[one]


def _in_steps(n: int, n_bytes: int) -> Iterator[slice]:
    """Slices of ``n`` items, of ``n_bytes`` each."""
    return blocks(n, max(1, _STEP_BYTES // n_bytes))
