"""Starts on a sample in memory: many are cheap there, and the best of them begins near its end on all data.

Each sample is part of the next one, which has ten times as many rows. All starts run to their ends on the smallest, the
best of them goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.estimation import Estimation, State
from ..data.inputs import as_dataset
from ..data.row_sample import draw_by_weight, draw_seed
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .em import EMRun, EMSettings, EMStart, Reseeding, Step, run_em
from .estep_pass import EStepPass
from .events import SampleFitted, SampleStepped
from .fit_spec import Settings
from .history import PassRecord
from .initialization import Sample

Array = np.ndarray[Any, np.dtype[Any]]

_GROWTH = 10
_FEWEST_ROWS = 1000
_ROWS_PER_PARAMETER = 50
"""A smaller sample's best mixture is too far from that of the data."""

# An iteration on the sample costs nothing beside one on all data.
_TOL_FACTOR = 0.1
_MOST_ITERATIONS = 1000


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
    backend: Callable[[int], ElementwiseBackend],
    dropped: Callable[[int, IllDefinedCovarianceError], Any],
    label: str = "",
) -> tuple[State, list[PassRecord], list[tuple[int, Reseeding]]]:
    """The best of the starts on the sample, what all of them took, and the components of it that began anew.

    Parameters
    ----------
    engine : Engine
        Of the whole fit: it is told how things go. The sample is worked on by threads of this process.
    settings : Settings
    estimation : Estimation
    sample : Sample
    random_state : numpy.random.RandomState
    n_starts : int
    loops : callable
        Number of components -> what kernels use beside matrix products.
    dropped : callable
        Called with the number of a start that ended in a collapsed component, and the error.
    label : str
        Of the mixture.

    Returns
    -------
    state : State
    records : list of PassRecord
    reseedings : list of (int, Reseeding)
        With the number of rows of the sample.

    Raises
    ------
    IllDefinedCovarianceError
        If all of them did.
    """
    samples = nested_samples(settings, sample, random_state)
    failures: list[IllDefinedCovarianceError] = []

    def drop(number: int, error: IllDefinedCovarianceError) -> None:
        failures.append(error)
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
                # Of rows most of which none of them has seen: no start is paid for overfitting.
                starts = _best(runner.run(estep_pass, starts, max_iter=1)[0], failures)
            starts, made = runner.run_to_end(estep_pass, starts)
            records += made
    (best,) = _best(starts, failures).values()
    return best.state, records, list(best.reseedings)


def nested_samples(settings: Settings, sample: Sample, random_state: np.random.RandomState) -> list[Sample]:
    """Draw smaller samples from a sample, each part of the next one; the last is the sample itself."""
    how, (n_rows, n_features) = settings.initialization, sample.rows.shape
    n_parameters = how.structure.n_covariance_parameters(how.n_components, n_features) + how.n_components * n_features
    sizes = sample_sizes(n_rows, n_parameters)
    if len(sizes) == 1:
        return [sample]
    return [*_parts(sample, sizes[:-1], random_state), sample]


def _parts(sample: Sample, sizes: Sequence[int], random_state: np.random.RandomState) -> Iterator[Sample]:
    """Draw smaller samples from a sample: the rows of each are some of the next one's.

    They follow the weights as the sample itself does: a uniform one would lose the few rows that nearly all weight lies
    on. Equal weights draw what no weights draw.
    """
    weights = sample.weights
    if weights is None or np.ptp(weights) == 0:
        order = random_state.permutation(len(sample.rows))
        for size in sizes:
            chosen = np.sort(order[:size])
            yield _part(sample, chosen, None if weights is None else weights[chosen])
    else:
        seed = draw_seed(random_state)
        for size in sizes:
            yield _part(sample, *draw_by_weight(weights, size, seed))


def _part(sample: Sample, chosen: Array, weights: Array | None) -> Sample:
    weight_sum = sample.weight_sum
    if weight_sum is None:
        weight_sum = float(len(sample.rows) if sample.weights is None else sample.weights.sum())
    return replace(sample, rows=sample.rows[chosen], weights=weights, weight_sum=weight_sum)


@dataclass(frozen=True)
class _SampleStart(Generic[State]):
    """A start between two samples."""

    state: State
    lower_bound: float = -np.inf
    """On the last sample."""
    reseedings: tuple[tuple[int, Reseeding], ...] = ()
    """With the number of rows of the sample."""


_Starts = dict[int, _SampleStart[State]]
"""Starts by their number."""


def _best(starts: _Starts[State], failures: Sequence[IllDefinedCovarianceError]) -> _Starts[State]:
    """Keep the start with the largest bound; raise the last failure where no start is left."""
    if not starts:
        raise failures[-1]
    best = max(starts, key=lambda number: starts[number].lower_bound)
    return {best: starts[best]}


@dataclass(frozen=True)
class _Runner(Generic[State]):
    """Runs starts on a sample."""

    engine: Engine
    settings: Settings
    estimation: Estimation[State]
    n_starts: int
    drop: Callable[[int, IllDefinedCovarianceError], Any]
    label: str

    def run_to_end(self, estep_pass: EStepPass, starts: _Starts[State]) -> tuple[_Starts[State], list[PassRecord]]:
        """Take starts to their ends, and tell of it."""
        begin, n_rows = time.perf_counter(), estep_pass.dataset.n_rows
        alive, ends = self.run(estep_pass, starts, max(_MOST_ITERATIONS, self.settings.max_iter))
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
        """Run EM; return the starts that did not collapse, and all ends, each with the arithmetic of its last step."""
        em: EMSettings[State] = EMSettings(_TOL_FACTOR * self.settings.tol, max_iter, self.settings.accelerator)
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
                seen = tuple((n_rows, reseeding) for reseeding in end.reseedings)
                alive[number] = _SampleStart(end.state, end.lower_bound, (*starts[number].reseedings, *seen))
            else:
                self.drop(number, end.failure)
        return alive, {number: (end, arithmetic[number]) for number, end in ends.items()}


def sample_pass(local: Engine, sample: Sample, backend: Callable[[int], ElementwiseBackend]) -> EStepPass:
    """E-steps over a sample that stands for all data: it weighs as much, because beside a prior counts matter."""
    weights = np.ones(len(sample.rows)) if sample.weights is None else sample.weights.astype(np.float64)
    if sample.weight_sum is not None:
        weights *= sample.weight_sum / weights.sum()
    dataset, _ = as_dataset(sample.rows, weights)
    return EStepPass(local, dataset, sample.frame, backend, float(weights.sum()))
