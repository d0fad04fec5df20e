"""A whole fit: survey, starts, the best of them; of one mixture, or of several that share every reading of the data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic

import numpy as np

from ..core.coincidence import coinciding
from ..core.estimation import State
from ..core.loops import PLAIN, Loops
from ..core.statistics import Frame
from ..data.source import Dataset
from ..engine.events import Waiting
from ..engine.interface import Engine
from ..engine.probe import probe
from ..errors import (
    CoincidingComponentsWarning,
    IllDefinedCovarianceError,
    InitializationWarning,
    ReseedingWarning,
)
from .candidate import Candidate, Continuation, Failed, Run
from .em import Ascent, AscentSnapshot, Relocator, Reseeding, Step, climb
from .events import FitResumed, IterationFinished, StartBegun, StartFinished
from .first_pass import loops_for, take_surveys
from .history import PassRecord
from .initialization import Sample
from .rare import Relocation
from .sampling import climb_samples
from .snapshot import Beginning, FitSnapshot, Keeper, Snapshot
from .survey import Survey
from .sweep import Sweep
from .worst import n_kept


class MixtureFits(Generic[State]):
    """Several mixtures on their way; those that are still running share every reading of the data.

    Each becomes, to the last bit, what it becomes alone, and what it becomes when it was interrupted between two passes
    and went on from what a `Keeper` has.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    candidates : sequence of Candidate
    keeper : Keeper, optional
        Is given what a later run needs, after each pass, and has what an earlier one left.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        candidates: Sequence[Candidate[State]],
        keeper: Keeper | None = None,
    ) -> None:
        self._engine, self._dataset, self._candidates, self._keeper = engine, dataset, candidates, keeper
        self._fits: list[_Fit[State]] = []

    def run(self) -> None:
        """Take all of them to their ends.

        Raises
        ------
        NonFiniteDataError, InvalidWeightsError, DataChangedError, ChunkError
            Whatever the passes find.
        SchedulerError
            If the scheduler does not answer.
        """
        found, is_new = self._beginning()
        surveys = found.surveys
        frame = Frame.of(surveys[0].mean, surveys[0].deviation)
        fits = [
            _Fit(self._engine, self._dataset, candidate, survey, frame)
            for candidate, survey in zip(self._candidates, surveys, strict=True)
        ]
        sweep = Sweep(self._engine, self._dataset, frame, partial(loops_for, self._dataset), surveys[0].weight_sum)
        kept = None if is_new or self._keeper is None else self._keeper.latest()
        if kept is None:
            self._begin(fits, found)
        else:
            self._resume(fits, sweep, kept)
        self._fits = fits
        climbing = [(fit, start) for fit in fits for start in fit.ascents]

        def on_step(number: int, step: Step) -> None:
            fit, start = climbing[number]
            fit.stepped(start, step)

        if kept is None:
            self._keep(sweep)
        self._tell_of_loading()
        climb(sweep, [fit.ascents[start] for fit, start in climbing], on_step, lambda: self._keep(sweep))

    def outcomes(self) -> list[Run[State] | Failed]:
        """What each of them has come to, its best start so far; nothing before the starts have been made."""
        return [fit.outcome() for fit in self._fits]

    def _beginning(self) -> tuple[Beginning, bool]:
        """What the first pass finds, or found in an earlier run; and whether it is new."""
        keeper, dataset = self._keeper, self._dataset
        probes = () if keeper is None else probe(self._engine, dataset)
        kept = None if keeper is None else keeper.beginning()
        if keeper is not None and kept is not None:
            keeper.check_probes(kept.probes, probes)
            dataset.guard.check(kept.tally)
            self._engine.n_passes += kept.n_passes
            self._candidates = [
                replace(candidate, random_state=_random_state(state))
                for candidate, state in zip(self._candidates, kept.random_states, strict=True)
            ]
            return kept, False
        begin = time.perf_counter()
        surveys = tuple(take_surveys(self._engine, dataset, self._candidates))
        seconds = time.perf_counter() - begin
        states = tuple(candidate.random_state.get_state(legacy=False) for candidate in self._candidates)
        assert dataset.guard.checksum is not None
        found = Beginning(surveys, states, dataset.guard.checksum, probes, self._engine.n_passes, seconds)
        if keeper is not None:
            keeper.keep_beginning(found)
        return found, True

    def _begin(self, fits: Sequence[_Fit[State]], found: Beginning) -> None:
        for fit in fits:
            fit.record("survey", 0, None, found.seconds, "")
            fit.begin()

    def _resume(self, fits: Sequence[_Fit[State]], sweep: Sweep, kept: Snapshot) -> None:
        sweep.common.update(kept.common)
        self._engine.n_passes = kept.n_passes
        for fit, snapshot in zip(fits, kept.fits, strict=True):
            fit.restore(snapshot)
        self._engine.emit(FitResumed(kept.n_passes))

    def _tell_of_loading(self) -> None:
        """Say so if the first E-step waits for machine code. What workers have loaded is not known."""
        engine = self._engine
        waiting = [fit.loops for fit in self._fits if fit.is_running]
        if any(loops is not PLAIN and (engine.is_remote or not loops.is_loaded) for loops in waiting):
            engine.emit(Waiting("loading compiled loops"))

    def _keep(self, sweep: Sweep) -> None:
        if self._keeper is not None:
            fits = tuple(fit.snapshot() for fit in self._fits)
            self._keeper.keep(Snapshot(self._engine.n_passes, dict(sweep.common), fits))


def fit_mixtures(
    engine: Engine, dataset: Dataset, candidates: Sequence[Candidate[State]], keeper: Keeper | None = None
) -> list[Run[State] | Failed]:
    """Fit several mixtures: `MixtureFits`, from its beginning to its end.

    Returns
    -------
    list of Run or Failed
        One for each candidate.
    """
    fits = MixtureFits(engine, dataset, candidates, keeper)
    fits.run()
    return fits.outcomes()


def _named(components: Sequence[int]) -> str:
    return ", ".join(map(str, components[:8])) + (", …" if len(components) > 8 else "")


def _random_state(state: Mapping[str, Any]) -> np.random.RandomState:
    made = np.random.RandomState()
    made.set_state(dict(state))
    return made


class _Fit(Generic[State]):
    """A candidate on its way: its starts, and what became of them."""

    def __init__(
        self, engine: Engine, dataset: Dataset, candidate: Candidate[State], survey: Survey, frame: Frame
    ) -> None:
        self._engine, self._dataset, self._candidate = engine, dataset, candidate
        self._settings = candidate.settings
        self._estimation = candidate.prepare(survey)
        weights = survey.sample_weight if dataset.weights is not None else None
        self._weight_sum, self._n_weighted = survey.weight_sum, survey.n_weighted
        self._sample = Sample(survey.sample, weights, frame, None if survey.is_complete else survey.weight_sum)
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
            return
        self._note_few_rows()
        if self._settings.samples(self._dataset.n_rows):
            self._begin_on_sample()
        else:
            for start in range(self._n_starts):
                self._begin_on_data(start)

    def _note_few_rows(self) -> None:
        """Tell of a sample that is small for what is to be fitted to it."""
        n_sampled, enough = len(self._sample.rows), self._settings.fewest_rows(self._dataset.n_features)
        if self._settings.init_size is None or self._sample.is_complete or n_sampled >= enough:
            return
        self.notes.append(
            InitializationWarning(
                f"init_size={self._settings.init_size} is few rows for the starts{self._of}: this mixture has so many "
                f"parameters that at least {enough} would be needed. Increase init_size, or leave it out."
            )
        )

    @property
    def _of(self) -> str:
        """Name of the candidate in a message, where there are others."""
        return f" of {self._candidate.label}" if self._candidate.label else ""

    def snapshot(self) -> FitSnapshot[State]:
        """Where it is now."""
        judge = self._candidate.judge
        return FitSnapshot(
            self._n_starts,
            tuple(self.history),
            tuple(self.notes),
            None if self._failure is None else self._failure.components,
            {start: ascent.snapshot() for start, ascent in self.ascents.items()},
            None if judge is None else judge.snapshot(),
        )

    def restore(self, snapshot: FitSnapshot[State]) -> None:
        """Go on from where another one was, instead of `begin`."""
        self._n_starts = snapshot.n_starts
        self.history, self.notes = list(snapshot.history), list(snapshot.notes)
        self._failure = None if snapshot.failure is None else IllDefinedCovarianceError(snapshot.failure)
        for start, ascent in snapshot.ascents.items():
            self._engine.emit(StartBegun(start, self._n_starts, self._candidate.label, ascent.n_iter))
            self._restore_ascent(start, ascent)
        if self._candidate.judge is not None and snapshot.prospects is not None:
            self._candidate.judge.restore(snapshot.prospects)

    def _restore_ascent(self, start: int, snapshot: AscentSnapshot[State]) -> None:
        ascent = self._ascent(Continuation(snapshot.state, -np.inf), self._relocation() if snapshot.relocates else None)
        ascent.restore(snapshot)
        self.ascents[start] = ascent
        self._tell_if_finished(start)

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
            state, records, reseedings = climb_samples(
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
        self.notes += [self._told(reseeding, n_rows) for n_rows, reseeding in reseedings]
        self._n_starts = 1
        self._engine.emit(StartBegun(0, 1, self._candidate.label))
        self._add(0, Continuation(state, -np.inf), self._relocation())

    def _relocation(self) -> Relocation[State] | None:
        """What is to look for clusters that the sample has too little of."""
        n_rows = self._n_weighted
        kept = n_kept(n_rows, self._dataset.n_features, len(self._sample.rows))
        if not (self._estimation.relocates and kept) or self._sample.is_complete:
            return None
        loops, told = partial(loops_for, self._dataset), self._after_step.append
        return Relocation(self._engine, self._estimation, self._sample, n_rows, kept, self._settings.tol, loops, told)

    def _add(self, start: int, begin: Continuation[State], relocator: Relocator[State] | None = None) -> None:
        self.ascents[start] = self._ascent(begin, relocator)
        self._tell_if_finished(start)

    def _ascent(self, begin: Continuation[State], relocator: Relocator[State] | None) -> Ascent[State]:
        settings = self._settings
        return Ascent(
            self._estimation,
            begin.state,
            tol=settings.tol,
            max_iter=settings.max_iter,
            lower_bound=begin.lower_bound,
            accelerator=settings.accelerator,
            relocator=relocator,
        )

    def _drop(self, start: int, error: IllDefinedCovarianceError) -> None:
        self._failure = error
        if self._n_starts > 1:
            self.notes.append(
                InitializationWarning(f"start {start + 1} of {self._n_starts}{self._of} was dropped: {error}")
            )

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
        ascent, judge = self.ascents[start], self._candidate.judge
        if judge is None or not ascent.lower_bounds:
            return
        if judge(start, ascent.lower_bounds, self._weight_sum) and not ascent.finished:
            ascent.stop()

    def _tell_if_finished(self, start: int) -> None:
        ascent = self.ascents[start]
        if ascent.finished:
            self._tell_end(start, ascent.n_iter, ascent.lower_bound, converged=ascent.converged, stopped=ascent.stopped)

    def _tell_end(self, start: int, n_iter: int, lower_bound: float, *, converged: bool, stopped: bool = False) -> None:
        measure, label = self._estimation.measure, self._candidate.label
        self._engine.emit(StartFinished(start, n_iter, lower_bound, converged, measure, label, stopped))

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
        notes = [*self.notes, *(self._told(reseeding) for reseeding in best.reseedings), *self._coincidences(best)]
        environment = self._engine.environment() | {"loops": self.loops.made_by}
        return Run(
            best.state,
            best.lower_bounds,
            best.n_iter,
            best.converged,
            self.history,
            notes,
            environment,
            stopped=best.stopped,
        )

    def _coincidences(self, ascent: Ascent[State]) -> Iterator[Warning]:
        """Components that a fit has ended with and that are one; those that hardly describe any row do not count."""
        if not ascent.converged:
            return
        parameters = self._estimation.parameters(ascent.state)
        needed = (parameters.n_features + 1) * self._weight_sum / self._n_weighted
        candidates = np.flatnonzero(self._estimation.counts(ascent.state, self._weight_sum) >= needed)
        groups = coinciding(parameters, candidates)
        if groups:
            named = "; ".join(_named(group) for group in groups[:4]) + ("; …" if len(groups) > 4 else "")
            yield CoincidingComponentsWarning(
                f"components {named}{self._of} coincide: they describe the same rows, and fewer components would "
                "describe the data as well. Decrease n_components; if the data should have so many clusters, try other "
                "init_params, a larger n_init or init_size, or a smaller tol, so that components have time to part; "
                "where the data vary by less than the square root of reg_covar, scale them or decrease it."
            )

    @property
    def is_running(self) -> bool:
        """True while a start asks for another E-step."""
        return not all(ascent.finished for ascent in self.ascents.values())

    @property
    def loops(self) -> Loops:
        """Loops that its kernels use beside matrix products."""
        return loops_for(self._dataset, self._settings.initialization.n_components)

    def _told(self, reseeding: Reseeding, n_sampled: int | None = None) -> ReseedingWarning:
        named = _named(reseeding.components)
        what = "collapsed" if reseeding.collapsed else "were left without rows"
        where = "" if n_sampled is None else f" on a sample of {n_sampled:,} rows"
        return ReseedingWarning(
            f"component(s) {named}{self._of} {what} in iteration {reseeding.n_iter}{where} and began anew, each with "
            "half of the widest component. If the data do not have so many clusters, decrease the number of "
            "components; else try other init_params or a larger n_init"
            + (", increase reg_covar, or scale the input data." if reseeding.collapsed else ".")
        )
