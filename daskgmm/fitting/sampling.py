"""Starts on a sample in memory: many are cheap there, and the best of them begins near its end on all data.

Samples grow tenfold from one rung to the next. All starts run to their ends on the smallest, the best of them goes on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic

import numpy as np

from ..core.estimation import Estimation, State
from ..core.loops import Loops
from ..data.accept import as_dataset
from ..data.row_sample import draw_by_weight, draw_seed
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .candidate import Settings
from .em import Ascent, Reseeding, Step, climb
from .events import SampleFitted, SampleStepped
from .history import PassRecord
from .initialization import Sample
from .sweep import Sweep

Array = np.ndarray[Any, np.dtype[Any]]

_GROWTH = 10
_FEWEST_ROWS = 1000
_ROWS_PER_PARAMETER = 50
"""A smaller sample's best mixture is too far from that of the data."""

# An iteration on the sample costs nothing beside one on all data.
_TOL_FACTOR = 0.1
_MOST_ITERATIONS = 1000


def rungs(n_rows: int, n_parameters: int) -> list[int]:
    """Sizes of the samples, ascending; the last is ``n_rows``."""
    fewest = max(_FEWEST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
    sizes = [n_rows]
    while sizes[0] // _GROWTH >= fewest:
        sizes.insert(0, sizes[0] // _GROWTH)
    return sizes


def climb_samples(
    engine: Engine,
    settings: Settings,
    estimation: Estimation[State],
    sample: Sample,
    random_state: np.random.RandomState,
    n_starts: int,
    loops: Callable[[int], Loops],
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
        Of the candidate.

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
    ladder = _ladder(settings, sample, random_state)
    runner = _Runner(engine, settings, estimation, n_starts, dropped, label)
    for start in range(n_starts):
        with runner.dropping(start):
            runner.states[start] = estimation.begin(lambda: settings.initialization(ladder[0], random_state))
    with engine.in_memory() as local:
        for rung in ladder:
            sweep = sample_sweep(local, rung, loops)
            if rung is not ladder[0]:
                runner.keep_best(sweep)  # of rows most of which none of them has seen: no start is paid for overfitting
            runner.climb(sweep)
    best = runner.best()
    return runner.states[best], runner.records, runner.reseedings[best]


def _ladder(settings: Settings, sample: Sample, random_state: np.random.RandomState) -> list[Sample]:
    how, (n_rows, n_features) = settings.initialization, sample.rows.shape
    n_parameters = how.structure.n_covariance_parameters(how.n_components, n_features) + how.n_components * n_features
    sizes = rungs(n_rows, n_parameters)
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


class _Runner(Generic[State]):
    """Starts on their way through the samples."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        estimation: Estimation[State],
        n_starts: int,
        dropped: Callable[[int, IllDefinedCovarianceError], Any],
        label: str,
    ) -> None:
        self._engine, self._settings, self._estimation = engine, settings, estimation
        self._n_starts, self._dropped, self._label = n_starts, dropped, label
        self._failure: IllDefinedCovarianceError | None = None
        self._bounds: dict[int, float] = {}
        self.states: dict[int, State] = {}
        self.records: list[PassRecord] = []
        self.reseedings: dict[int, list[tuple[int, Reseeding]]] = defaultdict(list)
        """By start, with the number of rows of the sample."""

    @contextmanager
    def dropping(self, start: int) -> Iterator[None]:
        """Give up a start whose components collapse inside."""
        try:
            yield
        except IllDefinedCovarianceError as error:
            self._drop(start, error)

    def _drop(self, start: int, error: IllDefinedCovarianceError) -> None:
        self.states.pop(start, None)
        self._failure = error
        self._dropped(start, error)

    def best(self) -> int:
        """The start with the largest bound so far."""
        self._check()
        return max(self.states, key=lambda start: self._bounds[start])

    def _check(self) -> None:
        if not self.states:
            raise self._failure or RuntimeError("a fit without starts")

    def keep_best(self, sweep: Sweep) -> None:
        """Drop all starts but the one that explains a sample best."""
        self._check()
        self._climb(sweep, max_iter=1)
        best = self.best()
        self.states = {best: self.states[best]}

    def climb(self, sweep: Sweep) -> None:
        """Take all starts to their ends on a sample."""
        self._check()
        begin, n_rows = time.perf_counter(), sweep.dataset.n_rows
        ascents = self._climb(sweep, max_iter=max(_MOST_ITERATIONS, self._settings.max_iter))
        seconds, measure = time.perf_counter() - begin, self._estimation.measure
        for start, (ascent, arithmetic) in ascents.items():
            bound = ascent.lower_bound
            self.records.append(PassRecord("sample", start, ascent.n_iter, bound, n_rows, 0, seconds, arithmetic))
            self._engine.emit(
                SampleFitted(
                    start, self._n_starts, n_rows, ascent.n_iter, bound, ascent.converged, seconds, measure, self._label
                )
            )

    def _climb(self, sweep: Sweep, max_iter: int) -> dict[int, tuple[Ascent[State], str]]:
        """Ascents from the present states, and the arithmetic of the last step of each."""
        settings, starts, arithmetic = self._settings, list(self.states), [""] * len(self.states)
        ascents = [
            Ascent(
                self._estimation,
                self.states[start],
                tol=_TOL_FACTOR * settings.tol,
                max_iter=max_iter,
                accelerator=settings.accelerator,
            )
            for start in starts
        ]

        def on_step(number: int, step: Step) -> None:
            arithmetic[number] = step.arithmetic
            self._engine.emit(
                SampleStepped(
                    starts[number],
                    self._n_starts,
                    sweep.dataset.n_rows,
                    ascents[number].n_iter,
                    step.lower_bound,
                    step.change,
                    self._estimation.measure,
                    self._label,
                )
            )

        climb(sweep, ascents, on_step)
        for start, ascent in zip(starts, ascents, strict=True):
            self.states[start], self._bounds[start] = ascent.state, ascent.lower_bound
            self.reseedings[start] += [(sweep.dataset.n_rows, reseeding) for reseeding in ascent.reseedings]
            if ascent.failure is not None:
                self._drop(start, ascent.failure)
        return dict(zip(starts, zip(ascents, arithmetic, strict=True), strict=True))


def sample_sweep(local: Engine, sample: Sample, loops: Callable[[int], Loops]) -> Sweep:
    """E-steps over a sample that stands for all data: it weighs as much, because beside a prior counts matter."""
    weights = np.ones(len(sample.rows)) if sample.weights is None else sample.weights.astype(np.float64)
    if sample.weight_sum is not None:
        weights *= sample.weight_sum / weights.sum()
    dataset, _ = as_dataset(sample.rows, weights)
    return Sweep(local, dataset, sample.frame, loops, float(weights.sum()))
