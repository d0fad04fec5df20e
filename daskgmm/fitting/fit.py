"""A whole fit: survey, starts, the best of them; of one mixture, or of several that share every reading of the data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Generic

import numpy as np

from ..core.estimation import State
from ..core.statistics import Frame
from ..data.source import Dataset
from ..data.survey import Survey
from ..engine.run import Engine
from ..errors import IllDefinedCovarianceError, InitializationWarning, ReseedingWarning
from .candidate import Candidate, Continuation, Failed, Run
from .em import Ascent, Relocator, Reseeding, Step, climb
from .events import IterationFinished, StartBegun, StartFinished
from .history import PassRecord
from .initialization import Sample
from .rare import Relocation
from .sampling import climb_samples
from .surveying import loops_for, take_surveys
from .sweep import Sweep
from .worst import n_kept


def fit_mixtures(engine: Engine, dataset: Dataset, candidates: Sequence[Candidate[State]]) -> list[Run[State] | Failed]:
    """Fit several mixtures; those that are still running share every reading of the data.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    candidates : sequence of Candidate

    Returns
    -------
    list of Run or Failed
        One for each candidate, to the last bit what it gives alone: the best of its starts.
    """
    begin = time.perf_counter()
    surveys = take_surveys(engine, dataset, candidates)
    seconds = time.perf_counter() - begin
    frame = Frame.of(surveys[0].mean, surveys[0].deviation)
    fits = [
        _Fit(engine, dataset, candidate, survey, frame) for candidate, survey in zip(candidates, surveys, strict=True)
    ]
    for fit in fits:
        fit.record("survey", 0, None, seconds, "")
        fit.begin()
    sweep = Sweep(engine, dataset, frame, partial(loops_for, dataset), surveys[0].weight_sum)
    climbing = [(fit, start) for fit in fits for start in fit.ascents]

    def on_step(number: int, step: Step) -> None:
        fit, start = climbing[number]
        fit.stepped(start, step)

    climb(sweep, [fit.ascents[start] for fit, start in climbing], on_step)
    return [fit.outcome() for fit in fits]


class _Fit(Generic[State]):
    """A candidate on its way: its starts, and what became of them."""

    def __init__(
        self, engine: Engine, dataset: Dataset, candidate: Candidate[State], survey: Survey, frame: Frame
    ) -> None:
        self._engine, self._dataset, self._candidate = engine, dataset, candidate
        self._settings = candidate.settings
        self._estimation = candidate.prepare(survey)
        weights = survey.sample_weight if dataset.weights is not None else None
        whole = len(survey.sample) == survey.n_rows
        self._weight_sum = survey.weight_sum
        self._sample = Sample(survey.sample, weights, frame, None if whole else survey.weight_sum)
        self._n_starts = 1 if candidate.continuation else self._settings.n_starts(dataset.n_rows)
        self._failure: IllDefinedCovarianceError | None = None
        self.ascents: dict[int, Ascent[State]] = {}
        """By the number of their start."""
        self.history: list[PassRecord] = []
        self._after_step: list[PassRecord] = []
        self.notes: list[Warning] = []

    def begin(self) -> None:
        """Make the starts, and run them on a sample where that comes first."""
        if self._candidate.continuation is not None:
            self._add(0, self._candidate.continuation)
        elif self._settings.samples(self._dataset.n_rows):
            self._begin_on_sample()
        else:
            for start in range(self._n_starts):
                self._begin_on_data(start)

    def _begin_on_data(self, start: int) -> None:
        self._engine.emit(StartBegun(start, self._n_starts, self._candidate.label))
        how, random_state = self._settings.initialization, self._candidate.random_state
        try:
            state = self._estimation.begin(lambda: how(self._sample, random_state))
        except IllDefinedCovarianceError as error:
            self._drop(start, error)
            self._tell_end(start, 0, -np.inf, converged=False)
        else:
            self._add(start, Continuation(state, -np.inf))

    def _begin_on_sample(self) -> None:
        try:
            state, records = climb_samples(
                self._engine,
                self._settings,
                self._estimation,
                self._sample,
                self._candidate.random_state,
                self._n_starts,
                partial(loops_for, self._dataset),
                self._drop,
                self._candidate.label,
            )
        except IllDefinedCovarianceError as error:
            self._failure = error
            return
        self.history += records
        self._n_starts = 1
        self._engine.emit(StartBegun(0, 1, self._candidate.label))
        self._add(0, Continuation(state, -np.inf), self._relocation())

    def _relocation(self) -> Relocation[State] | None:
        """What is to look for clusters that the sample has too little of."""
        n_rows = self._dataset.n_rows
        kept = n_kept(n_rows, self._dataset.n_features, len(self._sample.rows))
        if not (self._estimation.relocates and kept):
            return None
        loops, told = partial(loops_for, self._dataset), self._after_step.append
        return Relocation(self._engine, self._estimation, self._sample, n_rows, kept, self._settings.tol, loops, told)

    def _add(self, start: int, begin: Continuation[State], relocator: Relocator[State] | None = None) -> None:
        settings = self._settings
        self.ascents[start] = Ascent(
            self._estimation,
            begin.state,
            tol=settings.tol,
            max_iter=settings.max_iter,
            lower_bound=begin.lower_bound,
            accelerator=settings.accelerator,
            relocator=relocator,
        )
        self._tell_if_finished(start)

    def _drop(self, start: int, error: IllDefinedCovarianceError) -> None:
        self._failure = error
        if self._n_starts > 1:
            of = f" of {self._candidate.label}" if self._candidate.label else ""
            self.notes.append(InitializationWarning(f"start {start + 1} of {self._n_starts}{of} was dropped: {error}"))

    def stepped(self, start: int, step: Step) -> None:
        """Take note of a step of one of the starts."""
        ascent = self.ascents[start]
        bound = step.lower_bound if np.isfinite(step.lower_bound) else None
        self.record(step.kind, start, bound, step.seconds, step.arithmetic)
        self.history += self._after_step
        self._after_step.clear()
        if ascent.failure is not None:
            self._drop(start, ascent.failure)
        elif step.kind != "refined":
            self._engine.emit(
                IterationFinished(
                    start,
                    ascent.n_iter,
                    step.lower_bound,
                    step.change,
                    step.seconds,
                    step.arithmetic,
                    self._estimation.measure,
                    step.kind,
                    self._candidate.label,
                )
            )
            self._stop_if_hopeless(start)
        self._tell_if_finished(start)

    def _stop_if_hopeless(self, start: int) -> None:
        ascent, hopeless = self.ascents[start], self._candidate.hopeless
        if hopeless is None or not ascent.lower_bounds:
            return
        if hopeless(start, ascent.lower_bounds, self._weight_sum) and not ascent.finished:
            ascent.stop()

    def _tell_if_finished(self, start: int) -> None:
        ascent = self.ascents[start]
        if ascent.finished:
            self._tell_end(start, ascent.n_iter, ascent.lower_bound, converged=ascent.converged)

    def _tell_end(self, start: int, n_iter: int, lower_bound: float, *, converged: bool) -> None:
        measure, label = self._estimation.measure, self._candidate.label
        self._engine.emit(StartFinished(start, n_iter, lower_bound, converged, measure, label))

    def record(self, kind: str, start: int, lower_bound: float | None, seconds: float, arithmetic: str) -> None:
        """Take note of a pass over the data."""
        n_rows = self._dataset.n_rows
        n_bytes = n_rows * sum(source.row_bytes for source in self._dataset.sources)
        self.history.append(PassRecord(kind, start, 1, lower_bound, n_rows, n_bytes, seconds, arithmetic))

    def outcome(self) -> Run[State] | Failed:
        """The best start."""
        alive = [ascent for ascent in self.ascents.values() if ascent.failure is None]
        if not alive:
            assert self._failure is not None
            return Failed(self._failure, self.history, self.notes)
        best = max(alive, key=lambda ascent: ascent.lower_bound)
        notes = [*self.notes, *(self._told(reseeding) for reseeding in best.reseedings)]
        return Run(
            best.state, best.lower_bounds, best.n_iter, best.converged, self.history, notes, stopped=best.stopped
        )

    def _told(self, reseeding: Reseeding) -> ReseedingWarning:
        named = ", ".join(map(str, reseeding.components[:8])) + (", …" if len(reseeding.components) > 8 else "")
        of = f" of {self._candidate.label}" if self._candidate.label else ""
        return ReseedingWarning(
            f"component(s) {named}{of} {'collapsed' if reseeding.collapsed else 'were left without rows'} in iteration "
            f"{reseeding.n_iter} and began anew, each with half of the widest component. If the data do not have so "
            "many clusters, decrease the number of components; else try other init_params or a larger n_init"
            + (", increase reg_covar, or scale the input data." if reseeding.collapsed else ".")
        )
