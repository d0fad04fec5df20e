"""A whole fit: survey, starts, the best of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from ..core.estimation import Estimation, State
from ..core.loops import PLAIN, Loops, choose_loops
from ..core.statistics import Frame
from ..core.structure import CovarianceStructure
from ..data.source import Dataset
from ..data.survey import Survey, SurveyFold, check_weight_sum, draw_rows, scatter_bytes
from ..engine.config import compiled
from ..engine.run import Engine
from ..engine.tree import leaf_rows
from ..errors import IllDefinedCovarianceError, InitializationWarning
from .em import DataSweep, Iteration, Run, expectation_maximization, run_until_converged
from .events import IterationFinished, StartBegun, StartFinished
from .initialization import Initialization, Sample

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Settings:
    """What a fit is asked to do."""

    initialization: Initialization
    tol: float
    """In nats per unit of weight."""
    max_iter: int
    n_init: int
    init_size: int
    """Largest number of rows that the starts are made from."""
    scatter: bool = False
    """Whether the survey is to take all second moments of the data."""

    @property
    def scattered(self) -> CovarianceStructure | None:
        """Structure whose second moments the survey is to take; None for variances alone."""
        return self.initialization.structure if self.scatter else None


@dataclass(frozen=True)
class Continuation(Generic[State]):
    """An earlier fit that is to go on."""

    state: State
    lower_bound: float


def take_survey(
    engine: Engine,
    dataset: Dataset,
    init_size: int,
    random_state: np.random.RandomState,
    loops: Loops = PLAIN,
    structure: CovarianceStructure | None = None,
) -> Survey:
    """One pass: count, moments, extremes, finiteness, and a uniform sample of at most ``init_size`` rows.

    With a ``structure``, all second moments of the data that it needs, too.

    Raises
    ------
    NonFiniteDataError, InvalidWeightsError
        With the first row concerned that was met.
    """
    # Drawn from only where it is needed, so that small data leave the stream to the starts, as in scikit-learn.
    seed = random_state.randint(np.iinfo(np.int32).max) if dataset.n_rows > init_size else 0
    fold = survey_fold(dataset, draw_rows(dataset.n_rows, init_size, seed), loops, structure)
    survey: Survey = engine.run(dataset, fold, "survey")
    check_weight_sum(survey.weight_sum)
    return survey


def survey_fold(
    dataset: Dataset, sampled: Array, loops: Loops, structure: CovarianceStructure | None = None
) -> SurveyFold:
    """What the survey pass computes, with the numbers of the rows that it is to sample."""
    d = dataset.n_features
    rows = leaf_rows(d, 0 if structure is None else scatter_bytes(structure, d))
    return SurveyFold(rows, d, sampled, sample_dtype(dataset), loops, structure)


def sample_dtype(dataset: Dataset) -> np.dtype[Any]:
    """Dtype in which sampled rows are kept: single precision where the data are, else double."""
    return np.dtype(np.float32 if dataset.dtype.newbyteorder("=") == np.float32 else np.float64)


def loops_for(dataset: Dataset, settings: Settings) -> Loops:
    """Loops that the passes of a fit use."""
    return choose_loops(dataset.n_rows * settings.initialization.n_components, compiled=compiled())


def fit_mixture(
    engine: Engine,
    dataset: Dataset,
    settings: Settings,
    prepare: Callable[[Survey], Estimation[State]],
    random_state: np.random.RandomState,
    continuation: Continuation[State] | None = None,
) -> Run[State]:
    """Fit a mixture; the best of ``n_init`` starts.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    settings : Settings
    prepare : callable
        Makes the M-step, which may depend on what the survey found.
    random_state : numpy.random.RandomState
    continuation : Continuation, optional
        Go on from there instead of making starts.

    Raises
    ------
    IllDefinedCovarianceError
        If every start ended in a collapsed component.
    """
    loops = loops_for(dataset, settings)
    survey = take_survey(engine, dataset, settings.init_size, random_state, loops, settings.scattered)
    estimation = prepare(survey)
    frame = Frame.of(survey.mean, survey.deviation)
    weights = survey.sample_weight if dataset.weights is not None else None
    whole = len(survey.sample) == survey.n_rows
    sample = Sample(survey.sample, weights, frame, None if whole else survey.weight_sum)
    sweep = DataSweep(engine, dataset, frame, loops)
    if continuation is not None:
        return _run_start(sweep, settings, estimation, 0, continuation)
    best: Run[State] | None = None
    failure: IllDefinedCovarianceError | None = None
    for start in range(settings.n_init):
        engine.emit(StartBegun(start, settings.n_init))
        try:
            state = estimation.begin(lambda: settings.initialization(sample, random_state))
            run = _run_start(sweep, settings, estimation, start, Continuation(state, -np.inf))
        except IllDefinedCovarianceError as error:
            failure = error
            if settings.n_init > 1:
                warnings.warn(
                    f"start {start + 1} of {settings.n_init} was dropped: {error}",
                    InitializationWarning,
                    stacklevel=3,  # where fit() was called
                )
            continue
        if best is None or run.lower_bound > best.lower_bound:
            best = run
    if best is None:
        raise failure or RuntimeError("a fit without starts")
    return best


def _run_start(
    sweep: DataSweep, settings: Settings, estimation: Estimation[State], start: int, begin: Continuation[State]
) -> Run[State]:
    measure = estimation.measure

    def on_iteration(number: int, iteration: Iteration[State], change: float) -> None:
        sweep.engine.emit(
            IterationFinished(
                start, number, iteration.lower_bound, change, iteration.seconds, sweep.arithmetic, measure
            )
        )

    run = run_until_converged(
        expectation_maximization(begin.state, sweep, estimation),
        begin.state,
        tol=settings.tol,
        max_iter=settings.max_iter,
        lower_bound=begin.lower_bound,
        on_iteration=on_iteration,
    )
    sweep.engine.emit(StartFinished(start, len(run.lower_bounds), run.lower_bound, run.converged, measure))
    return run
