"""Starts on nested samples in memory, where starts are cheap; the best start goes on to all data, near its end.

Each sample is part of the next sample, which has ten times as many rows. All starts run to their ends on the smallest
sample, and the best start goes on to the larger ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Generic

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.estimation import Estimation, State
from ..core.kernel_choice import MixtureShape
from ..core.merging import merge
from ..core.mixture import MixtureParameters
from ..core.statistics import SufficientStatistics
from ..data.row_sample import draw_by_weight, draw_seed
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .em import EMRun, EMSettings, EMStart, Reseeding, Step, run_em
from .estep_pass import EStepPass, EStepRequest
from .events import SampleFitted, SampleStepped
from .fit_spec import Settings
from .history import PassRecord
from .initialization import Sample
from .samples import SampleParts, part, sample_pass
from .start_search import Found, StartSearch

Array = np.ndarray[Any, np.dtype[Any]]

_GROWTH = 10
_FEWEST_ROWS = 1000
_ROWS_PER_PARAMETER = 50
"""Smallest sample size: the best mixture of a smaller sample is too far from the best mixture of the data."""

# Iterations on a sample are cheap compared with iterations on all data, so starts run closer to convergence there.
_TOL_FACTOR = 0.1
_MOST_ITERATIONS = 1000

# After a search, a start runs on a sample of this share of the rows, or on so many times the rows of the search.
_REFINING_ITERATIONS = 8
_LARGER = 4


def sample_sizes(n_rows: int, n_parameters: int) -> list[int]:
    """Sizes of nested samples, ascending; the last is ``n_rows``."""
    fewest = max(_FEWEST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
    sizes = [n_rows]
    while sizes[0] // _GROWTH >= fewest:
        sizes.insert(0, sizes[0] // _GROWTH)
    return sizes


def fit_on_samples(
    engine: Engine,
    settings: Settings,
    estimation: Estimation[State],
    sample: Sample,
    random_state: np.random.RandomState,
    n_starts: int,
    backend: Callable[[MixtureShape], ElementwiseBackend],
    dropped: Callable[[int, IllDefinedCovarianceError], Any],
    label: str = "",
) -> tuple[State, list[PassRecord], list[tuple[int, Reseeding]]]:
    """Run starts on nested samples; return the best state, the records of all starts, and the best start's reseedings.

    Parameters
    ----------
    engine : Engine
        Engine of the whole fit, which receives events. Threads of this process work on the sample.
    settings : Settings
    estimation : Estimation
    sample : Sample
    random_state : numpy.random.RandomState
    n_starts : int
    backend : callable
        Shape of a mixture -> `ElementwiseBackend` of the kernels.
    dropped : callable
        Called with the number of a start that ended in a collapsed component, and the error.
    label : str
        Label of the mixture.

    Returns
    -------
    state : State
    records : list of PassRecord
    reseedings : list of (int, Reseeding)
        Number of rows of the sample, and the reseeding.

    Raises
    ------
    IllDefinedCovarianceError
        If all starts ended in a collapsed component.
    """
    samples = nested_samples(settings, sample, random_state)
    failures: list[IllDefinedCovarianceError] = []

    def drop(number: int, error: IllDefinedCovarianceError) -> None:
        # Without the traceback: its frames would keep the data alive until Python's garbage collector runs.
        failures.append(IllDefinedCovarianceError(error.components))
        dropped(number, error)

    runner = _Runner(engine, settings, estimation, n_starts, drop, label)
    starts: _Starts[State] = {}
    for number in range(n_starts):
        try:
            starts[number] = _SampleStart(estimation.begin(lambda: settings.initialization(samples[0], random_state)))
        except IllDefinedCovarianceError as error:
            drop(number, error)
    records: list[PassRecord] = []
    with engine.in_memory() as local:
        for part in samples:
            estep_pass = sample_pass(local, part, backend)
            if part is not samples[0]:
                # The starts have not seen most of these rows, so the choice does not reward overfitting.
                starts = _best(runner.run(estep_pass, starts, max_iter=1)[0], failures)
            most = max(_MOST_ITERATIONS, settings.max_iter)
            starts, new_records = runner.run_to_end(estep_pass, starts, most)
            records += new_records
    (best,) = _best(starts, failures).values()
    return best.state, records, list(best.reseedings)


def nested_samples(settings: Settings, sample: Sample, random_state: np.random.RandomState) -> list[Sample]:
    """Draw nested samples from a sample, each part of the next; the last is the sample itself."""
    how, (n_rows, n_features) = settings.initialization, sample.rows.shape
    n_parameters = how.structure.n_covariance_parameters(how.n_components, n_features) + how.n_components * n_features
    sizes = sample_sizes(n_rows, n_parameters)
    if len(sizes) == 1:
        return [sample]
    return [*_nested(sample, sizes[:-1], random_state), sample]


def _nested(sample: Sample, sizes: Sequence[int], random_state: np.random.RandomState) -> Iterator[Sample]:
    """Draw smaller samples from a sample, each part of the next.

    The samples are drawn by weight, as the sample itself is: uniform sampling would lose the few rows that carry nearly
    all weight. Equal weights draw the same rows as no weights.
    """
    weights = sample.weights
    if weights is None or np.ptp(weights) == 0:
        order = random_state.permutation(len(sample.rows))
        for size in sizes:
            yield part(sample, np.sort(order[:size]))
    else:
        seed = draw_seed(random_state)
        for size in sizes:
            yield part(sample, *draw_by_weight(weights, size, seed))


def fit_by_search(
    n_rows: int,
    engine: Engine,
    settings: Settings,
    estimation: Estimation[State],
    sample: Sample,
    random_state: np.random.RandomState,
    n_starts: int,
    backend: Callable[[MixtureShape], ElementwiseBackend],
    dropped: Callable[[int, IllDefinedCovarianceError], Any],
    label: str = "",
    shared: Found | None = None,
) -> tuple[State, list[PassRecord], list[tuple[int, Reseeding]]]:
    """Search for a start on small samples, and run the start on a larger one; see `StartSearch` and `fit_on_samples`.

    Parameters
    ----------
    n_rows : int
        Rows of all data.
    engine, settings, estimation, sample, random_state, n_starts, backend, dropped, label
        As for `fit_on_samples`; a start is a whole search.
    shared : Found, optional
        Outcome of a search for several mixtures together, see `search_together`; replaces the search.

    Raises
    ------
    IllDefinedCovarianceError
        If all searches, or the start from the best one, ended in a collapsed component.
    """
    how, begin = settings.initialization, time.perf_counter()
    failures: list[IllDefinedCovarianceError] = []

    def drop(number: int, error: IllDefinedCovarianceError) -> None:
        failures.append(IllDefinedCovarianceError(error.components))  # without the traceback, as in `fit_on_samples`
        dropped(number, error)

    with engine.in_memory() as local:
        found: dict[int, Found] = {} if shared is None else {0: shared}
        for number in range(len(found), n_starts):
            search = StartSearch(local, how, estimation.reg_covar, sample, n_rows, random_state, backend, settings.tol)
            try:
                found[number] = search.run(_Announcer(engine, number, n_starts, label))
            except IllDefinedCovarianceError as error:
                drop(number, error)
        if not found:
            raise failures[-1]
        number = max(found, key=lambda each: found[each].log_likelihood)
        best = found[number]
        seconds = best.seconds or time.perf_counter() - begin
        records = [
            PassRecord("sample", place, each.n_iter, each.log_likelihood, each.n_rows, 0, seconds, "float64")
            for place, each in found.items()
        ]
        part = SampleParts(sample, 0, random_state).next(_refining_rows(n_rows, len(sample.rows), best.n_rows))
        estep_pass = sample_pass(local, part, backend)
        starts = {number: _SampleStart(_begun(estimation, estep_pass, best.parameters))}
        runner = _Runner(engine, settings, estimation, n_starts, drop, label)
        starts, more = runner.run_to_end(estep_pass, starts, max(1, n_rows // len(part.rows) - 1))
    (end,) = _best(starts, failures).values()
    return end.state, [*records, *more], list(end.reseedings)


def _begun(estimation: Estimation[State], estep_pass: EStepPass, parameters: MixtureParameters) -> State:
    """Make the first state from a mixture; components that a fit may leave empty are merged if the bound is higher."""
    n_components, best, highest = parameters.n_components, None, -np.inf
    for size in _sizes(n_components) if estimation.leaves_empty else [n_components]:
        parameters = _sorted(merge(parameters, size))
        (result,) = estep_pass([EStepRequest(parameters)])
        statistics = result.statistics.padded(parameters.structure, n_components)
        state = estimation.begin(partial(_same, statistics))
        if size == n_components and not estimation.leaves_empty:
            return state
        (result,) = estep_pass([EStepRequest(estimation.parameters(state))])
        bound = estimation.bound(result.statistics, estimation.update(result.statistics))
        if best is None or bound > highest:
            best, highest = state, bound
    assert best is not None
    return best


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


def search_together(
    engine: Engine, make: Callable[[Engine], StartSearch], labels: Mapping[int, str]
) -> dict[int, Found]:
    """Search for the starts of several mixtures of one covariance structure: one over-fit serves all of them.

    The largest mixture has a whole search. Each smaller one begins with the next larger one, merged, and a mixture that
    describes the held-out rows worse than the next smaller one begins again with that one, split.

    Parameters
    ----------
    engine : Engine
        Engine of the whole fit, which receives events.
    make : callable
        Engine for rows in memory -> search for the largest mixture.
    labels : mapping
        Number of components -> label of the mixture.

    Returns
    -------
    dict of int to Found

    Raises
    ------
    IllDefinedCovarianceError
        If rows of a round left a mixture without positive definite covariances.
    """
    begin = time.perf_counter()
    ascending = sorted(labels)
    announce = {k: _Announcer(engine, 0, 1, label) for k, label in labels.items()}
    with engine.in_memory() as local:
        largest = make(local)
        found = {ascending[-1]: largest.run(announce[ascending[-1]])}
        searches = {ascending[-1]: largest}
        for more, fewer in pairwise(reversed(ascending)):
            searches[fewer] = largest.smaller(fewer)
            found[fewer] = searches[fewer].run_from(found[more].parameters, announce[fewer])
        for fewer, more in pairwise(ascending):
            if found[more].log_likelihood < found[fewer].log_likelihood:
                other = searches[more].run_from(found[fewer].parameters, announce[more])
                best = max(found[more], other, key=lambda each: each.log_likelihood)
                found[more] = replace(best, n_iter=other.n_iter)
    seconds = time.perf_counter() - begin
    return {k: replace(each, seconds=seconds) for k, each in found.items()}


def _refining_rows(n_rows: int, n_sample: int, searched: int) -> int:
    """Rows on which a start runs after a search: one pass's arithmetic is enough for some iterations."""
    return min(n_sample, max(n_rows // _REFINING_ITERATIONS, _LARGER * searched))


@dataclass
class _Announcer:
    """Announcer of the rounds of a search as steps on a sample."""

    engine: Engine
    number: int
    n_starts: int
    label: str
    _rounds: int = 0
    _last: float = -np.inf

    def __call__(self, found: Found) -> None:
        self._rounds += 1
        bound = found.log_likelihood
        self.engine.emit(
            SampleStepped(
                self.number, self.n_starts, found.n_rows, self._rounds, bound, bound - self._last, label=self.label
            )
        )
        self._last = bound


@dataclass(frozen=True)
class _SampleStart(Generic[State]):
    """State of a start between two samples."""

    state: State
    lower_bound: float = -np.inf
    """Bound on the last sample."""
    reseedings: tuple[tuple[int, Reseeding], ...] = ()
    """Reseedings, each with the number of rows of the sample."""


_Starts = dict[int, _SampleStart[State]]
"""Starts by number."""


def _best(starts: _Starts[State], failures: Sequence[IllDefinedCovarianceError]) -> _Starts[State]:
    """Keep the start with the largest bound; raise the last failure if no start is left."""
    if not starts:
        raise IllDefinedCovarianceError(failures[-1].components)
    best = max(starts, key=lambda number: starts[number].lower_bound)
    return {best: starts[best]}


@dataclass(frozen=True)
class _Runner(Generic[State]):
    """Runner of starts on a sample."""

    engine: Engine
    settings: Settings
    estimation: Estimation[State]
    n_starts: int
    drop: Callable[[int, IllDefinedCovarianceError], Any]
    label: str

    def run_to_end(
        self, estep_pass: EStepPass, starts: _Starts[State], max_iter: int
    ) -> tuple[_Starts[State], list[PassRecord]]:
        """Run starts to their ends, and emit an event for each."""
        begin, n_rows = time.perf_counter(), estep_pass.dataset.n_rows
        alive, ends = self.run(estep_pass, starts, max_iter)
        seconds, measure = time.perf_counter() - begin, self.estimation.measure
        records = []
        for number, (end, arithmetic) in ends.items():
            bound = end.lower_bound
            records.append(PassRecord("sample", number, end.n_iter, bound, n_rows, 0, seconds, arithmetic))
            self.engine.emit(
                SampleFitted(
                    number, self.n_starts, n_rows, end.n_iter, bound, end.converged, seconds, measure, self.label
                )
            )
        return alive, records

    def run(
        self, estep_pass: EStepPass, starts: _Starts[State], max_iter: int
    ) -> tuple[_Starts[State], dict[int, tuple[EMStart[State], str]]]:
        """Run EM; return the starts without a collapse, and all ends with the arithmetic of their last steps."""
        em: EMSettings[State] = EMSettings(
            _TOL_FACTOR * self.settings.tol, max_iter, self.settings.accelerator, single=self.settings.single
        )
        numbers, arithmetic, n_rows = list(starts), dict.fromkeys(starts, ""), estep_pass.dataset.n_rows

        def on_step(place: int, start: EMStart[State], step: Step) -> EMStart[State]:
            number = numbers[place]
            arithmetic[number] = step.arithmetic
            self.engine.emit(
                SampleStepped(
                    number,
                    self.n_starts,
                    n_rows,
                    start.n_iter,
                    step.lower_bound,
                    step.change,
                    self.estimation.measure,
                    self.label,
                )
            )
            return start

        runs = [EMRun(self.estimation, em, em.begin(start.state)) for start in starts.values()]
        ends = dict(zip(numbers, run_em(estep_pass, runs, on_step), strict=True))
        alive = {}
        for number, end in ends.items():
            if end.failure is None:
                reseedings = tuple((n_rows, reseeding) for reseeding in end.reseedings)
                alive[number] = _SampleStart(end.state, end.lower_bound, (*starts[number].reseedings, *reseedings))
            else:
                self.drop(number, end.failure)
        return alive, {number: (end, arithmetic[number]) for number, end in ends.items()}
