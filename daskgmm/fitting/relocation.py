"""Moves of components to rare clusters, which a sample is too small to show, after the first E-step over all data.

A start from a sample knows only the sample, which has at most a few rows of a cluster of one row in ten thousand; and
EM on all data does not find clusters far from every component. The first E-step over all data therefore keeps the rows
with the lowest log-densities, in the same reading. These rows, together with the sample's rows of higher density,
scaled to the weight of all such rows, form a sample of the data in two strata, of which the low-density stratum is
complete. On the strata, in memory, components are moved as in split-and-merge EM (Ueda, Nakano, Ghahramani & Hinton,
Neural Computation 12, 2000): two overlapping components become one, and the freed component moves to a cluster of
low-density rows. Such clusters are found as in greedy EM (Verbeek, Vlassis & Kröse, Neural Computation 15, 2003), by
fitting one more component beside the mixture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ..core.elementwise import ElementwiseBackend
from ..core.estimation import Estimation, State
from ..core.kernel_choice import Kernel, MixtureShape, choose_kernel
from ..core.maximum_likelihood import maximize
from ..core.merging import cheapest_merges
from ..core.mixture import MixtureParameters
from ..core.statistics import statistics_of_responsibilities
from ..data.row_sample import draw_by_weight
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .em import EMRun, EMSettings, Relocated, Step, run_em
from .em_start import EMStart
from .estep_pass import EStepResult
from .history import PassRecord
from .initialization import Sample
from .low_density_rows import DensityThreshold, LowDensityRows
from .samples import sample_pass

Array = np.ndarray[Any, np.dtype[Any]]

#: Largest number of components that are moved.
MOST_MOVES = 3

# Higher-density rows of the sample for each low-density row: the limit keeps iterations in memory cheap compared with a
# pass, whatever the size of the sample.
_BETTER_FOR_EACH = 2

_THINNING_SEED = 0  # any seed: the rows are a random sample already

_CANDIDATES = 3  # clusters tried for each move
_MERGES = 3  # pairs of components tried for each move
_FITTING_ITERATIONS = 50  # for one more component, which begins with a few rows of a cluster and may have to grow
_STILL_GROWING = 1.01  # ratio of the gains of two iterations above which a component is still growing
_TRIAL_ITERATIONS = 25  # of all components, for each tried move
_TOL_FACTOR = 0.1

# Smaller responsibilities are set to zero; rows without responsibilities cost no time.
_NEGLIGIBLE = 1e-10

# A move must gain at least this many standard errors. A wrong move costs one pass, because the E-step over all data
# decides in the end.
_STANDARD_ERRORS = 1.0


@dataclass(frozen=True)
class _Strata:
    """Sample of the data in two strata: first all rows with the lowest log-densities, then a sample of the others."""

    sample: Sample
    n_low_density: int
    """Number of rows in the first stratum."""

    @property
    def weights(self) -> Array:
        """Weights of the rows, which sum to the weight of all data."""
        assert self.sample.weights is not None
        return self.sample.weights

    def mean(self, values: Array) -> float:
        """Weighted mean of one value for each row."""
        return float(self.weights @ values / self.weights.sum())

    def standard_error(self, values: Array) -> float:
        """Standard error of `mean`; the first stratum is complete and adds no error."""
        weights, values = self.weights[self.n_low_density :], values[self.n_low_density :]
        deviations = weights * (values - weights @ values / weights.sum())
        return float(math.sqrt(deviations @ deviations) / self.weights.sum())


@dataclass(frozen=True)
class _Move(Generic[State]):
    """Outcome of trying to move one component."""

    state: State | None = None
    """State after the move; None if no move helps."""
    n_iter: int = 0
    """Iterations of all trials on the strata."""
    lower_bound: float = -np.inf
    """Bound of the state on the strata; bound of the mixture without a move if no move helps."""
    arithmetic: str = ""
    """Arithmetic of the last iteration."""


@dataclass(frozen=True)
class Relocation(Generic[State]):
    """Relocator that moves components to rare clusters, after the first E-step over all data."""

    engine: Engine
    estimation: Estimation[State]
    sample: Sample
    """Sample from which the start was made."""
    n_rows: int
    """Rows of the data with positive weight."""
    n_kept: int
    """Number of low-density rows to keep."""
    tol: float
    """Smallest gain in mean log-likelihood of a cluster, in nats per unit of weight."""
    backend: Callable[[MixtureShape], ElementwiseBackend]
    start: int = 0

    def threshold(self, parameters: MixtureParameters) -> DensityThreshold:
        """Return the threshold for ``n_kept`` rows; by the sample, twice as many rows lie below its log-density."""
        density = self._kernel(parameters, self.sample).log_density(self.sample.rows)
        order, certain = np.argsort(density, kind="stable"), _certain(self.sample)
        n_certain = np.count_nonzero(certain)
        share = (len(density) - n_certain) / (self.n_rows - n_certain)
        expected = 2 * self.n_kept * share
        below = np.cumsum(np.where(certain, share, 1.0)[order])  # a certain row represents only itself
        enough = 1 + np.searchsorted(below, math.ceil(expected + 3 * math.sqrt(expected) + 3))
        return DensityThreshold(self.n_kept, float(density[order[enough]]) if enough < len(density) else np.inf)

    def __call__(self, result: EStepResult, updated: State) -> Relocated[State]:
        """Search for a better state than ``updated`` by moving components; record the iterations of the trials."""
        begin = time.perf_counter()
        strata = (
            None if result.low_density_rows is None else _stratify(self.sample, result.kernel, result.low_density_rows)
        )
        if strata is None:
            return Relocated()
        state, moves = updated, []
        with self.engine.in_memory() as local:
            for _ in range(MOST_MOVES):
                moves.append(move := self._move(local, strata, state))
                if move.state is None:
                    break
                state = move.state
        records = self._records(moves, len(strata.sample.rows), time.perf_counter() - begin)
        return Relocated(None if state is updated else state, records)

    def _records(self, moves: list[_Move[State]], n_rows: int, seconds: float) -> tuple[PassRecord, ...]:
        tried = [move for move in moves if move.n_iter]
        if not tried:
            return ()
        n_iter, last = sum(move.n_iter for move in tried), tried[-1]
        return (PassRecord.of_sample(self.start, n_iter, last.lower_bound, n_rows, seconds, last.arithmetic),)

    def _move(self, local: Engine, strata: _Strata, state: State) -> _Move[State]:
        """Move one component, if a move helps."""
        kernel = self._kernel(self.estimation.parameters(state), strata.sample)
        cluster = self._cluster(strata, kernel)
        if cluster is None:
            return _Move()
        # A component that has a few rows of the cluster may grow to have all of them. On all data the growth takes
        # passes, and the fit may converge earlier, so the trials include the state without a move.
        ends, arithmetic = self._trials(local, strata, [state, *self._moved(strata, kernel, cluster)])
        n_iter = sum(end.n_iter for end in ends)
        still, best = ends[0], max(ends, key=_bound)
        choices = [(still, state)]
        if _bound(best) > _bound(still) + self.tol:
            # Compare with a mixture fitted to the same rows first: sampling errors of the two largely cancel.
            choices = [(best, still.state), (still, state), (best, state)]
        for end, before in choices:
            if end.collapsed is None and self._is_worth(strata, end.state, before):
                return _Move(end.state, n_iter, end.lower_bound, arithmetic)
        return _Move(None, n_iter, _bound(still), arithmetic)

    def _trials(self, local: Engine, strata: _Strata, begins: Sequence[State]) -> tuple[list[EMStart[State]], str]:
        """Run EM on the strata from several states; return the ends, and the arithmetic of the last iteration."""
        arithmetic = ""

        def on_step(_: int, start: EMStart[State], step: Step) -> EMStart[State]:
            nonlocal arithmetic
            arithmetic = step.arithmetic
            return start

        em: EMSettings[State] = EMSettings(_TOL_FACTOR * self.tol, _TRIAL_ITERATIONS)
        runs = [EMRun(self.estimation, em, em.begin(begin)) for begin in begins]
        return run_em(sample_pass(local, strata.sample, self.backend), runs, on_step), arithmetic

    def _is_worth(self, strata: _Strata, state: State, before: State) -> bool:
        """Test whether the gain, over all rows and over the first stratum, exceeds ``tol`` and its standard error."""
        rows = strata.sample.rows
        after, earlier = (
            self._kernel(self.estimation.parameters(s), strata.sample).log_density(rows) for s in (state, before)
        )
        gain = after - earlier
        low_density_gain = strata.mean(np.where(np.arange(len(rows)) < strata.n_low_density, gain, 0.0))
        return min(strata.mean(gain), low_density_gain) > max(self.tol, _STANDARD_ERRORS * strata.standard_error(gain))

    def _kernel(self, parameters: MixtureParameters, sample: Sample) -> Kernel:
        backend = self.backend(MixtureShape.of(parameters))
        return choose_kernel(parameters, sample.frame, sample.rows.dtype, backend, rows=sample.row_kind.name)

    def _cluster(self, strata: _Strata, kernel: Kernel) -> Array | None:
        """Responsibilities of the best additional component for all rows, (n,); None if it gains less than ``tol``."""
        density = kernel.log_density(strata.sample.rows)
        candidates: list[tuple[float, Array]] = []
        taken = np.zeros(strata.n_low_density, bool)
        seeds = _seeds(strata, density)
        while len(candidates) < _CANDIDATES and (members := seeds(taken)) is not None:
            taken[members] = True
            gain, responsibilities = self._one_more(strata, kernel.parameters, density, members)
            taken |= responsibilities[: strata.n_low_density] > 0.5
            candidates.append((gain, responsibilities))
        gain, responsibilities = max(candidates, key=lambda cluster: cluster[0], default=(0.0, np.empty(0)))
        return responsibilities if gain > self.tol else None

    def _one_more(
        self, strata: _Strata, parameters: MixtureParameters, density: Array, members: Array
    ) -> tuple[float, Array]:
        """Fit one more component beside a fixed mixture; return its gain and its responsibilities, (n,)."""
        structure, rows = parameters.structure, strata.sample.rows
        exact = rows.astype(np.float64, copy=False)
        responsibilities = np.zeros(len(rows))
        responsibilities[members] = 1
        gain = before = 0.0
        for _ in range(_FITTING_ITERATIONS):
            counted = responsibilities * strata.weights
            share = counted.sum() / strata.weights.sum()
            if not 0 < share < 1 or _n_effective(counted) < _fewest(rows.shape[1]):
                return 0.0, np.zeros(len(rows))
            statistics = statistics_of_responsibilities(structure, exact, counted[:, None], strata.sample.frame)
            try:
                one = maximize(structure, statistics, self.estimation.reg_covar)
            except IllDefinedCovarianceError:
                return 0.0, np.zeros(len(rows))
            joint = math.log(share) + self._kernel(one, strata.sample).log_density(rows)
            both = np.logaddexp(math.log1p(-share) + density, joint)
            responsibilities = np.exp(joint - both)
            responsibilities[responsibilities < _NEGLIGIBLE] = 0
            gain = strata.mean(both - density)
            if not gain > _STILL_GROWING * max(before, 0.0):
                break
            before = gain
        return gain, responsibilities

    def _moved(self, strata: _Strata, kernel: Kernel, cluster: Array) -> Iterator[State]:
        """Make states in which two components are merged, and the freed component has the cluster."""
        rows = strata.sample.rows
        present = kernel.responsibilities(rows) * (1 - cluster)[:, None]
        for kept, freed in cheapest_merges(kernel.parameters)[:_MERGES]:
            responsibilities = present.copy()
            responsibilities[:, kept] += responsibilities[:, freed]
            responsibilities[:, freed] = cluster
            responsibilities *= strata.weights[:, None]
            statistics = statistics_of_responsibilities(
                kernel.parameters.structure, rows.astype(np.float64, copy=False), responsibilities, strata.sample.frame
            )
            try:
                yield self.estimation.update(statistics)
            except IllDefinedCovarianceError:
                continue


def strata_bytes(n_kept: int, n_features: int, n_components: int) -> int:
    """Memory of the search in this process: rows, neighbours, and responsibilities of the trials."""
    n_rows = (1 + _BETTER_FOR_EACH) * n_kept
    return 8 * n_rows * (4 * n_features + 4 * n_components) + 32 * n_kept * _fewest(n_features)


def _bound(end: EMStart[Any]) -> float:
    return -np.inf if end.collapsed is not None else end.lower_bound


def _stratify(sample: Sample, kernel: Kernel, low_density_rows: LowDensityRows) -> _Strata | None:
    """Make both strata; None if one of them is empty."""
    if not len(low_density_rows.rows) or sample.weight_sum is None:
        return None
    better = np.flatnonzero(kernel.log_density(sample.rows) > low_density_rows.log_density[-1])
    weights = np.ones(len(better)) if sample.weights is None else sample.weights[better].astype(np.float64)
    better, weights = _thinned(better[weights > 0], weights[weights > 0], _BETTER_FOR_EACH * len(low_density_rows.rows))
    rest = sample.weight_sum - low_density_rows.weights.sum()
    if not len(better) or not rest > 0:
        return None
    rows = np.concatenate([low_density_rows.rows, sample.rows[better]])
    all_weights = np.concatenate([low_density_rows.weights, weights * (rest / weights.sum())])
    return _Strata(replace(sample, rows=rows, weights=all_weights), len(low_density_rows.rows))


def _thinned(rows: Array, weights: Array, size: int) -> tuple[Array, Array]:
    """Draw at most ``size`` of a sample's rows; return the rows and their weights."""
    if len(rows) <= size:
        return rows, weights
    if np.ptp(weights) == 0:
        step = -(-len(rows) // size)  # a systematic sample, in the order of the data
        return rows[::step], weights[::step]
    chosen, weights = draw_by_weight(weights, size, _THINNING_SEED)
    return rows[chosen], weights


def _certain(sample: Sample) -> Array:
    """Mask of the rows, (n,), that are in the sample with certainty: of unequal weights, those above the threshold.

    All other rows have the threshold itself as their weight, which therefore is the lowest weight of the sample.
    """
    if sample.weights is None:
        return np.zeros(len(sample.rows), bool)
    return np.asarray(sample.weights > sample.weights.min())


def _fewest(n_features: int) -> int:
    """Smallest number of rows of a cluster."""
    return max(5, n_features + 2)


def _n_effective(weights: Array) -> float:
    """Effective sample size, (Σ w)² / Σ w²: a row of large weight is still one observation."""
    return float(weights.sum() ** 2 / (weights @ weights))


def _seeds(strata: _Strata, density: Array) -> Callable[[Array], Array | None]:
    """Make a search, among the rows not yet taken, for the neighbours with the largest excess over the density."""
    rows, frame = strata.sample.rows[: strata.n_low_density], strata.sample.frame
    n_neighbours = 2 * _fewest(rows.shape[1])
    if len(rows) <= n_neighbours:
        return lambda _: None
    scaled = (rows - frame.center) / frame.scale
    distances, neighbours = NearestNeighbors(n_neighbors=n_neighbours).fit(scaled).kneighbors(scaled)
    # Equal rows have distance zero. The volume of a ball grows with the D-th power of its radius.
    radius = np.maximum(distances[:, -1], np.finfo(np.float32).eps)
    excess = -rows.shape[1] * np.log(radius) - density[: strata.n_low_density]

    def densest(taken: Array) -> Array | None:
        if taken.all():
            return None
        return np.asarray(neighbours[np.where(taken, -np.inf, excess).argmax()])

    return densest
