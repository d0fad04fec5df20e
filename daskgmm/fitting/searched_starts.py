"""Starts by a search on small samples; the best one runs on a larger sample, and goes on to all data."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..core.estimation import Estimation, State
from ..core.kernel_choice import MixtureShape, choose_kernel
from ..core.merging import merge
from ..core.mixture import MixtureParameters
from ..core.statistics import SufficientStatistics
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .events import SampleStepped
from .history import PassRecord
from .sample_starts import SampleFit, SampleStart, StartContext, best_of, run_to_end
from .sample_steps import SampleSteps
from .samples import SampleParts, sample_pass
from .start_search import Found, StartSearch

# After a search, a start runs on a sample of this share of the rows, or on so many times the rows of the search.
_REFINING_ITERATIONS = 8
_LARGER = 4


def fit_by_search(context: StartContext[State], shared: Found | None = None) -> SampleFit[State]:
    """Search for a start on small samples, and run the start on a larger one.

    Parameters
    ----------
    context : StartContext
        A start is a whole search (`StartSearch`).
    shared : Found, optional
        Outcome of a search for several mixtures together, see `search_together`; replaces the search.

    Returns
    -------
    SampleFit
    """
    with context.engine.in_memory() as local:
        found = _searches(context, local) if shared is None else {0: shared}
        if not found:
            return SampleFit(None, ())
        number = max(found, key=lambda each: found[each].log_likelihood)
        best, sample = found[number], context.sample
        refining = SampleParts(sample, 0, context.random_state).next(
            _refining_rows(context.n_rows, len(sample.rows), best.n_rows)
        )
        estep_pass = sample_pass(local, refining, context.backend)
        steps = SampleSteps(estep_pass)
        state, bound = _begin(context.estimation, steps, best.parameters)
        records = [_record(context, *each) for each in found.items()] + steps.records(number, bound)
        most = max(1, context.n_rows // len(refining.rows) - 1)
        starts, more = run_to_end(context, estep_pass, {number: SampleStart(state)}, most)
    return SampleFit(next(iter(best_of(starts).values()), None), (*records, *more))


def new_search(context: StartContext[Any], local: Engine) -> StartSearch:
    """Make a search for a start, on an engine for rows in memory."""
    settings = context.settings
    return StartSearch(
        local,
        settings.initialization,
        context.estimation.reg_covar,
        context.sample,
        context.n_rows,
        context.random_state,
        context.backend,
        settings.tol,
    )


@dataclass
class Announcer:
    """Announcer of the rounds of a search as steps on a sample."""

    context: StartContext[Any]
    number: int = 0
    """Number of the start."""
    _rounds: int = 0
    _last: float = -np.inf

    def __call__(self, found: Found) -> None:
        self._rounds += 1
        bound, context = found.log_likelihood, self.context
        change, label = bound - self._last, context.label
        context.engine.emit(
            SampleStepped(self.number, context.n_starts, found.n_rows, self._rounds, bound, change, label=label)
        )
        self._last = bound


def _searches(context: StartContext[Any], local: Engine) -> dict[int, Found]:
    """Run one search for each start; return the outcomes of the searches that did not fail, by number."""
    found = {}
    for number in range(context.n_starts):
        begin = time.perf_counter()
        try:
            outcome = new_search(context, local).run(Announcer(context, number))
        except IllDefinedCovarianceError as error:
            context.dropped(number, error)
        else:
            found[number] = replace(outcome, seconds=time.perf_counter() - begin)
    return found


def _record(context: StartContext[Any], number: int, found: Found) -> PassRecord:
    """Record a search, with the arithmetic of the log-likelihood at its end."""
    sample, parameters = context.sample, found.parameters
    backend = context.backend(MixtureShape.of(parameters))
    kernel = choose_kernel(parameters, sample.frame, sample.rows.dtype, backend, rows=sample.row_kind.name)
    return PassRecord.of_sample(
        number, found.n_iter, found.log_likelihood, found.n_rows, found.seconds, kernel.arithmetic
    )


def _begin(
    estimation: Estimation[State], steps: SampleSteps, parameters: MixtureParameters
) -> tuple[State, float | None]:
    """Make the first state from a mixture; components that a fit may leave empty are merged if the bound is higher.

    Returns
    -------
    state : State
    bound : float or None
        None if only one state was made, which needs no bound.
    """
    n_components, best, highest = parameters.n_components, None, -np.inf
    for size in _sizes(n_components) if estimation.leaves_empty else [n_components]:
        parameters = _sorted(merge(parameters, size))
        statistics = steps(parameters).padded(parameters.structure, n_components)
        state = estimation.begin(partial(_same, statistics))
        if not estimation.leaves_empty:
            return state, None
        statistics = steps(estimation.parameters(state))
        bound = estimation.bound(statistics, estimation.update(statistics))
        if best is None or bound > highest:
            best, highest = state, bound
    assert best is not None
    return best, highest


def _same(statistics: SufficientStatistics) -> SufficientStatistics:
    return statistics


def _sizes(n_components: int) -> list[int]:
    """Numbers of components from all of them down to one, each a quarter smaller than the last."""
    sizes = [n_components]
    while sizes[-1] > 1:
        sizes.append(min(sizes[-1] - 1, round(0.75 * sizes[-1])))
    return sizes


def _sorted(parameters: MixtureParameters) -> MixtureParameters:
    """Sort components by falling weight: a Dirichlet process expects the heaviest first."""
    order = np.argsort(-parameters.weights, kind="stable")
    structure = parameters.structure
    return MixtureParameters(
        structure,
        parameters.weights[order],
        parameters.means[order],
        structure.take(parameters.covariances, order),
        structure.take(parameters.precisions_cholesky, order),
    )


def _refining_rows(n_rows: int, n_sample: int, searched: int) -> int:
    """Rows on which a start runs after a search: one pass's arithmetic is enough for some iterations."""
    return min(n_sample, max(n_rows // _REFINING_ITERATIONS, _LARGER * searched))
