"""Search for a start on small samples in memory: over-fit and merge, then split and merge.

One k-means start in each cluster is unlikely with K seeds, and an optimum of EM with two components in one cluster, or
one over two, is final. With several K seeds each cluster has one, and the surplus lies inside clusters, where merging
components costs least. So a start begins with too many components, and merges pairs between a few EM steps until K are
left. After that every component is split into two, and the 2 K components are merged in the same way; a mixture that
describes rows which no step has seen better than the best mixture so far takes its place (after the split-and-merge EM
of Ueda, Nakano, Ghahramani & Hinton 2000, and of Zhang, Zhang & Yi 2004). Each round has other rows, so that no round
rewards overfitting.

Covariances of components of few rows are shrunk towards the common covariance of the first clusters: such a component
would otherwise become a needle around its rows, which no merge removes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.kernel_choice import MixtureShape
from ..core.maximum_likelihood import maximize
from ..core.merging import merge
from ..core.mixture import MixtureParameters, free_parameters
from ..core.splitting import split
from ..core.statistics import SufficientStatistics
from ..core.structure import CovarianceStructure
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .estep_pass import EStepRequest
from .initialization import Initialization, Sample
from .samples import SampleParts, mean_log_likelihood, sample_pass

Array = np.ndarray[Any, np.dtype[Any]]

Schedule = tuple[tuple[float, int], ...]
"""Numbers of components, in units of K, each with its number of EM steps; descending."""

# Over-fits by falling cost. The more components there are at first, the better the optimum of data that are no mixture
# of Gaussians.
_OVER_FITS: tuple[Schedule, ...] = (
    ((10, 3), (6, 2), (4, 2), (3, 2), (2, 2), (1.5, 2), (1, 6)),
    ((6, 3), (4, 2), (3, 2), (2, 2), (1.5, 2), (1, 6)),
    ((3, 3), (1.5, 2), (1, 8)),
)

# Rounds take turns: every component in two, or in four.
_ROUNDS: tuple[Schedule, ...] = (
    ((2, 4), (1.5, 3), (1.2, 2), (1, 4)),
    ((4, 3), (3, 2), (2, 2), (1.5, 2), (1, 4)),
)

# Rows of each round: enough for the parameters, unless that takes too large a share of all rows.
_FEWEST_ROWS = 5000
_ROWS_PER_PARAMETER = 4
_LARGEST_SHARE = 0.1

# Rows that no round has seen, on which mixtures are compared.
_HELD_OUT = 10_000

# Covariances of components of fewer rows per feature are shrunk, the more the fewer rows there are. The components of
# an over-fit have at least as many rows on average: merges of shrunk components depend little on the data.
_ROWS_PER_FEATURE = 3

# Arithmetic of the whole search, in passes over all data with K components; and the part of the first over-fit.
_PASSES = 3.0
_FIRST_SHARE = 0.8

# A smaller mixture of a shared search begins near its end: its share of the arithmetic of a search of its own, which is
# one round at least, and its first steps, some of them with components to spare if it is much smaller than the mixture
# that it is merged from.
_SMALLER_SHARE = 0.4
_MERGES: Schedule = ((2, 2), (1.5, 2), (1, 6))

# Covariances, factors and second moments, of the mixture, of splits and of merges; up to 9.8 were measured.
_COPIES = 10

# The search ends after this many rounds, or after some in a row that gained less than the tolerance: two for each
# component, within limits. With 6, searches on real data ended 0.006 nats a row lower in the mean, after half as many.
_MOST_ROUNDS = 60
_PATIENCE_PER_COMPONENT, _LEAST_PATIENCE, _MOST_PATIENCE = 2, 6, 20

_SEEDS = "k-means++"


@dataclass(frozen=True)
class Found:
    """Outcome of a search."""

    parameters: MixtureParameters
    log_likelihood: float
    """Mean log-likelihood of rows that the search has not used otherwise, in nats."""
    n_iter: int
    """Number of EM steps."""
    n_rows: int
    """Rows of each round."""
    seconds: float = 0.0
    """Wall time of the search."""


class StartSearch:
    """Search for the start of a fit.

    Parameters
    ----------
    local : Engine
        Engine for rows in memory.
    how : Initialization
        Covariance structure and number of components, K.
    reg_covar : float
        Number added to the variances, in squared units of the data.
    sample : Sample
        Sample of the data.
    n_rows : int
        Rows of all data with positive weight, by which the search limits its arithmetic.
    random_state : numpy.random.RandomState
    backend : callable
        Shape of a mixture -> `ElementwiseBackend` of the kernels.
    tol : float
        Least gain that counts, in nats.
    """

    def __init__(
        self,
        local: Engine,
        how: Initialization,
        reg_covar: float,
        sample: Sample,
        n_rows: int,
        random_state: np.random.RandomState,
        backend: Callable[[MixtureShape], ElementwiseBackend],
        tol: float,
    ) -> None:
        self._local, self._how, self._reg_covar, self._backend, self._tol = local, how, reg_covar, backend, tol
        self._random_state, self._structure, self._k = random_state, how.structure, how.n_components
        n_sample, n_features = sample.rows.shape
        n_parameters = free_parameters(how.structure, how.n_components, n_features)
        fewest = max(_FEWEST_ROWS, how.n_components)
        size = min(max(fewest, _ROWS_PER_PARAMETER * n_parameters), max(fewest, int(_LARGEST_SHARE * n_rows)))
        held_out = min(_HELD_OUT, n_sample // 4)
        self._n_rows = min(size, n_sample - held_out)
        self._shrunk_rows = _ROWS_PER_FEATURE * (n_features + 1)
        self._parts = SampleParts(sample, held_out, random_state)
        self._budget = _PASSES * n_rows * how.n_components
        self._spent = 0.0
        self._n_iter = 0

    def run(self, on_round: Callable[[Found], Any]) -> Found:
        """Run the search; ``on_round`` is called with the best mixture after each round.

        Raises
        ------
        IllDefinedCovarianceError
            If no mixture of the first rows has positive definite covariances.
        """
        try:
            first = self._over_fit()
        except IllDefinedCovarianceError as error:
            # The components of the over-fit have other numbers than those of the mixture.
            raise IllDefinedCovarianceError(tuple(range(self._k)) if error.components else ()) from None
        return self._improved(first, on_round)

    def smaller(self, n_components: int) -> StartSearch:
        """Make the search for a smaller mixture, which shares rows, held-out rows and random numbers with this one.

        Only after `run`, and only for `run_from`.
        """
        other = copy(self)
        other._how, other._k = replace(self._how, n_components=n_components), n_components
        least = 1.25 * (other._cost(_MERGES, self._n_rows) + other._cost(_ROUNDS[0], self._n_rows))
        other._budget = max(_SMALLER_SHARE * self._budget * n_components / self._k, least)
        other._spent, other._n_iter = 0.0, 0
        return other

    def run_from(self, parameters: MixtureParameters, on_round: Callable[[Found], Any]) -> Found:
        """Run the search from a mixture of more components, or of fewer, in place of an over-fit.

        Raises
        ------
        IllDefinedCovarianceError
            If the first rows leave a mixture without positive definite covariances.
        """
        schedule = _MERGES if parameters.n_components > self._k else _ROUNDS[0]
        while parameters.n_components <= self._k:
            parameters = split(parameters, self._random_state)
        part = self._parts.next(self._n_rows)
        return self._improved(self._reduced(parameters, part, schedule, parameters.n_components), on_round)

    def _improved(self, best: Found, on_round: Callable[[Found], Any]) -> Found:
        """Run rounds of split and merge from the first mixture."""
        on_round(best)
        most_in_vain = min(max(_PATIENCE_PER_COMPONENT * self._k, _LEAST_PATIENCE), _MOST_PATIENCE)
        patience = most_in_vain
        for schedule in islice(cycle(_ROUNDS), _MOST_ROUNDS):
            if not patience or self._spent + self._cost(schedule, self._n_rows) > self._budget:
                break
            patience -= 1
            try:
                other = self._split_and_merge(best.parameters, schedule)
            except IllDefinedCovarianceError:
                continue
            if other.log_likelihood > best.log_likelihood + self._tol:
                patience = most_in_vain
            best = max(best, other, key=lambda found: found.log_likelihood)
            on_round(replace(best, n_iter=self._n_iter))
        return replace(best, n_iter=self._n_iter)

    # ---- the two kinds of rounds

    def _over_fit(self) -> Found:
        affordable, part = _FIRST_SHARE * self._budget, self._parts.next(self._n_rows)
        most = max(self._k, len(part.rows) // self._shrunk_rows)
        schedule = next((each for each in _OVER_FITS[:-1] if self._cost(each, most) <= affordable), _OVER_FITS[-1])
        first = self._number(schedule[0][0], most)
        statistics = replace(self._how, n_components=first, method=_SEEDS)(part, self._random_state)
        self._common = self._one_covariance(statistics)
        return self._reduced(maximize(self._structure, statistics, self._reg_covar), part, schedule, most)

    def _split_and_merge(self, parameters: MixtureParameters, schedule: Schedule) -> Found:
        while parameters.n_components < schedule[0][0] * self._k:
            parameters = split(parameters, self._random_state)
        return self._reduced(parameters, self._parts.next(self._n_rows), schedule, parameters.n_components)

    def _reduced(self, parameters: MixtureParameters, part: Sample, schedule: Schedule, most: int) -> Found:
        """Run EM on some rows at each number of components, and merge down to the next."""
        estep_pass = sample_pass(self._local, part, self._backend)
        for factor, n_iter in schedule:
            parameters = merge(parameters, min(parameters.n_components, self._number(factor, most)))
            for _ in range(n_iter):
                (result,) = estep_pass([EStepRequest(parameters, rounds=True)])
                parameters = self._m_step(result.statistics)
            self._count(n_iter, len(part.rows), parameters.n_components)
        return Found(parameters, self._score(parameters), self._n_iter, len(part.rows))

    def _number(self, factor: float, most: int) -> int:
        return max(self._k, min(int(factor * self._k), most))

    # ---- the M-step

    def _m_step(self, statistics: SufficientStatistics) -> MixtureParameters:
        """Run the M-step; covariances of components of few rows are shrunk towards the common covariance.

        Components that collapse have the common covariance.
        """
        structure = self._structure
        soft_counts, offsets, covariances = statistics.central_moments(structure, self._reg_covar)
        reference = np.broadcast_to(statistics.reference, offsets.shape)
        rows = structure.matrix_weights(soft_counts) * (statistics.n_rows / statistics.weight_sum)
        share = np.maximum(0.0, 1 - rows / self._shrunk_rows)
        common = np.repeat(self._common, len(rows), axis=0)
        covariances = structure.multiply(covariances, 1 - share) + structure.multiply(common, share)
        make = partial(
            MixtureParameters.from_covariances, structure, soft_counts / soft_counts.sum(), reference + offsets
        )
        try:
            return make(covariances)
        except IllDefinedCovarianceError as error:
            if not error.components:
                raise
            # Equal rows, such as many zeros, have a component of an over-fit to themselves, where the fit has none.
            collapsed = list(error.components)
            covariances[collapsed] = common[collapsed]
            return make(covariances)

    def _one_covariance(self, statistics: SufficientStatistics) -> Array:
        """Covariance that all components have at first, as one matrix."""
        return statistics.central_moments(self._structure, self._reg_covar)[2][:1]

    # ---- costs and comparisons

    def _cost(self, schedule: Schedule, most: int) -> float:
        """Log-joints of a schedule, rows times components; ``most`` is the largest number of components."""
        return float(self._n_rows * sum(n_iter * self._number(factor, most) for factor, n_iter in schedule))

    def _count(self, n_iter: int, n_rows: int, n_components: int) -> None:
        self._n_iter += n_iter
        self._spent += float(n_iter * n_rows * n_components)

    def _score(self, parameters: MixtureParameters) -> float:
        """Mean log-likelihood of the rows that no round uses."""
        held_out = self._parts.held_out
        self._spent += len(held_out.rows) * parameters.n_components / 2  # no sums
        return mean_log_likelihood(self._local, held_out, parameters, self._backend)


def search_bytes(structure: CovarianceStructure, n_components: int, n_features: int, n_sample: int) -> int:
    """Memory of a search: parameters and statistics of its largest mixture, and a mask of all pairs of components."""
    most = max(n_components, n_sample // (_ROWS_PER_FEATURE * (n_features + 1)))
    over_fit = min(int(_OVER_FITS[0][0][0] * n_components), most)
    largest = max(over_fit, *(int(schedule[0][0] * n_components) for schedule in _ROUNDS))
    return 8 * _COPIES * math.prod(structure.covariance_shape(largest, n_features)) + largest**2
