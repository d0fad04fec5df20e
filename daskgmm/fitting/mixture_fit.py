"""The fit of one mixture: its starts, on a sample first if one is requested, and the best start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Generic

import numpy as np

from ..core.acceleration import Accelerator
from ..core.elementwise import ElementwiseBackend
from ..core.estimation import State
from ..core.kernel_choice import MixtureShape
from ..core.mixture import MixtureParameters, free_parameters
from ..core.splitting import twins
from ..core.statistics import Frame
from ..core.tilting import TiltedBFGS
from ..data.dataset import Dataset
from ..data.row_checks import check_complete
from ..engine.interface import Engine
from ..errors import CheckpointError, IllDefinedCovarianceError
from . import notes
from .comparison import MOST_TIGHTENED, TIGHTER, Standing, gain_left
from .em import EMRun, EMSettings, Step
from .em_start import EMStart
from .events import IterationFinished, StartBegun, StartFinished
from .first_pass import backend_for
from .fit_spec import FailedFit, FitResult, FitSpec
from .fit_state import FitState
from .growth import grow
from .history import PassRecord
from .initialization import Initialization, Sample
from .low_density_rows import n_kept
from .nested_samples import fit_on_samples
from .relocation import Relocation
from .sample_starts import StartContext
from .searched_starts import fit_by_search
from .shared_search import Outcome
from .survey import Survey
from .tilted_sample import TiltedSample

_GROWING = (0x6772, 0x6F77)
"""Seed of the splits of a start from a smaller mixture; number of components and of the start follow."""


class MixtureFit(Generic[State]):
    """The running fit of one mixture.

    `state`, a frozen value that is replaced, holds everything that changes.

    Parameters
    ----------
    engine : Engine
        Receives the events of the fit.
    dataset : Dataset
    spec : FitSpec
    survey : Survey
        Survey of the data.
    frame : Frame
        Center and scale of the data.
    is_hopeless : callable, optional
        Number of a start, its bounds so far and the number of free parameters -> True to stop the start.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        spec: FitSpec[State],
        survey: Survey,
        frame: Frame,
        is_hopeless: Callable[[int, tuple[float, ...], int], bool] | None = None,
    ) -> None:
        self._engine, self._dataset, self._spec = engine, dataset, spec
        self._is_hopeless = is_hopeless
        settings = self._settings = spec.settings.resolved(survey.n_weighted)
        self._of = notes.of_label(spec.label)
        self._estimation = spec.prepare(survey)
        weights = survey.sample_weight if dataset.weights is not None else None
        self._weight_sum, self._n_weighted = survey.weight_sum, survey.n_weighted
        weight_sum = None if survey.is_complete else survey.weight_sum
        self._n_incomplete = survey.n_incomplete
        check_complete(survey.n_rows, survey.n_incomplete, settings.initialization.n_components)
        self._sample = Sample(survey.sample, weights, frame, weight_sum, dataset.row_kind.known_complete)
        self._samples = spec.continuation is None and settings.samples(dataset.n_rows)
        accelerator = self._accelerator()
        self._em = EMSettings(settings.tol, settings.max_iter, accelerator, self._relocator(), settings.single)
        n_starts = 1 if spec.continuation else settings.n_starts(dataset.n_rows)
        self.state: FitState[State] = FitState(n_starts, {})

    @property
    def n_free(self) -> int:
        """Free parameters of the mixture."""
        how = self._settings.initialization
        return free_parameters(how.structure, how.n_components, self._dataset.n_features)

    @property
    def is_running(self) -> bool:
        """Test whether a start needs another E-step."""
        return not all(start.is_finished(self._em.max_iter) for start in self.state.starts.values())

    @property
    def tol(self) -> float:
        """Tolerance of the fit, as it has been tightened so far."""
        return self._settings.tol / TIGHTER**self.state.n_tightened

    @property
    def standing(self) -> Standing | None:
        """Best start so far; None if all starts collapsed."""
        best = self._best()
        if best is None or not best.lower_bounds:
            return None
        how = self._settings.initialization
        converged = self._has_converged(best) and not best.stopped
        return Standing(how.structure, how.n_components, self.n_free, best.lower_bound, gain_left(best), converged)

    @property
    def backend(self) -> ElementwiseBackend:
        """Element-wise backend of the kernels."""
        how = self._settings.initialization
        return backend_for(self._dataset, MixtureShape(how.structure, how.n_components, self._dataset.n_features))

    def runs(self) -> dict[int, EMRun[State]]:
        """Return the runs of all starts, for `run_em`."""
        em = replace(self._em, tol=self.tol)
        return {number: EMRun(self._estimation, em, start) for number, start in self.state.starts.items()}

    # ---- starts

    @property
    def shares_search(self) -> bool:
        """Test whether the search for the start may be shared with fits of other numbers of components."""
        return self._samples and self._settings.searches and self.state.n_starts == 1

    @property
    def how(self) -> Initialization:
        """Covariance structure and number of components."""
        return self._settings.initialization

    @property
    def context(self) -> StartContext[State]:
        """Context of the starts on samples."""
        return StartContext(
            self._engine,
            self._settings,
            self._estimation,
            self._sample,
            self._n_weighted,
            self._spec.random_state,
            self.state.n_starts,
            partial(backend_for, self._dataset),
            self._drop,
            self._spec.label,
        )

    def begin(self, searched: Outcome | None = None) -> None:
        """Make the starts, and run them on a sample if the settings request one.

        Parameters
        ----------
        searched : Outcome, optional
            Outcome of a shared search for the start.
        """
        if self._spec.continuation is not None:
            self._add(0, self._em.begin(self._spec.continuation.state, self._spec.continuation.lower_bound))
            return
        self._note_few_rows()
        if self._samples:
            self._begin_on_sample(searched)
        else:
            for number in range(self.state.n_starts):
                self._begin_on_data(number)

    def resume(self, state: FitState[State]) -> None:
        """Resume from the state of an earlier run, instead of `begin`.

        Raises
        ------
        CheckpointError
            If the fit of this number of rows is accelerated, and the state is that of a plain one, or conversely.
        """
        if any((start.accelerator is None) != (self._em.accelerator is None) for start in state.starts.values()):
            raise CheckpointError("the checkpoint is damaged: a start has no state of the mixture's accelerator")
        self.state = state
        for number, start in state.starts.items():
            self._engine.emit(StartBegun(number, state.n_starts, self._spec.label, start.n_iter))
            self._emit_if_finished(number)

    def _note_few_rows(self) -> None:
        n_sampled, enough = len(self._sample.rows), self._settings.fewest_rows(self._dataset.n_features)
        if self._settings.init_size is not None and not self._sample.is_complete and n_sampled < enough:
            self._note(notes.few_rows(self._settings.init_size, enough, self._of))

    def _begin_on_data(self, number: int) -> None:
        self._engine.emit(StartBegun(number, self.state.n_starts, self._spec.label))
        how, random_state = self._settings.initialization, self._spec.random_state
        try:
            state = self._estimation.begin(lambda: how(self._sample, random_state))
        except IllDefinedCovarianceError as error:
            self._drop(number, error)
            self._emit_end(number, 0, -np.inf, converged=False)
        else:
            self._add(number, self._em.begin(state))

    def _begin_on_sample(self, searched: Outcome | None) -> None:
        if isinstance(searched, IllDefinedCovarianceError):
            self._drop(0, searched)
            return
        searches = self._settings.searches
        fit = fit_by_search(self.context, searched) if searches else fit_on_samples(self.context)
        self.state = replace(self.state, history=(*self.state.history, *fit.records))
        if fit.best is None:
            return
        self.state = replace(self.state, n_starts=1)
        self._note(*(notes.began_anew(reseeding, self._of, n_rows) for n_rows, reseeding in fit.best.reseedings))
        self._engine.emit(StartBegun(0, 1, self._spec.label))
        self._add(0, self._em.begin(fit.best.state))

    def _accelerator(self) -> Accelerator[Any] | None:
        """Give the accelerator a sample to tilt, if it tilts one and the starts are made from a sample."""
        accelerator = self._settings.accelerator
        if not isinstance(accelerator, TiltedBFGS) or not self._samples or self._sample.is_complete:
            return accelerator
        n_rows, backend = self._n_weighted, partial(backend_for, self._dataset)
        likelihood = TiltedSample(self._engine, self._estimation, self._sample, n_rows, backend, accelerator.bfgs)
        return replace(accelerator, likelihood=likelihood if likelihood.serves(self.n_free) else None)

    def _relocator(self) -> Relocation[State] | None:
        """Make the search for clusters that are rare in the sample; None if the fit has no use for one."""
        n_rows = self._n_weighted
        kept = n_kept(n_rows, self._dataset.n_features, len(self._sample.rows))
        if not (self._samples and self._estimation.relocates and kept) or self._sample.is_complete:
            return None
        backend = partial(backend_for, self._dataset)
        return Relocation(self._engine, self._estimation, self._sample, n_rows, kept, self._settings.tol, backend)

    def _add(self, number: int, start: EMStart[State]) -> None:
        self._set(number, start)
        self._emit_if_finished(number)

    def _set(self, number: int, start: EMStart[State]) -> None:
        self.state = replace(self.state, starts={**self.state.starts, number: start})

    def _drop(self, number: int, error: IllDefinedCovarianceError) -> None:
        self.state = replace(self.state, collapsed=error.components)
        if self.state.n_starts > 1:
            self._note(notes.dropped(number, self.state.n_starts, error, self._of))

    # ---- after the end of all starts

    def grow(self, smaller: MixtureParameters) -> None:
        """Add a start from a mixture with fewer components."""
        how, number = self._settings.initialization, self.state.n_starts + self.state.n_grown
        random_state = np.random.RandomState([*_GROWING, how.n_components, self.state.n_grown])
        if self.state.n_grown == 0:
            parameters, records = grow(self.context, number, smaller, random_state)
            self.state = replace(self.state, history=(*self.state.history, *records))
        else:
            parameters = twins(smaller, how.n_components, random_state)
        self.state = replace(self.state, n_grown=self.state.n_grown + 1)
        self._engine.emit(StartBegun(number, number + 1, self._spec.label))
        state: Any = parameters  # only likelihoods are compared, and then the state is the mixture
        self._add(number, replace(self._em.begin(state), relocates=False))

    @property
    def can_tighten(self) -> bool:
        """Test whether the best start may go on with a smaller tolerance."""
        best = self._best()
        tightened, max_iter = self.state.n_tightened, self._em.max_iter
        return best is not None and best.converged and tightened < MOST_TIGHTENED and best.n_iter < max_iter

    def tighten(self) -> None:
        """Let the best start go on with a smaller tolerance."""
        number, start = max(self._alive().items(), key=lambda item: item[1].lower_bound)
        self.state = replace(self.state, n_tightened=self.state.n_tightened + 1)
        self._engine.emit(StartBegun(number, len(self.state.starts), self._spec.label, start.n_iter))
        self._add(number, replace(start, converged=False))

    @property
    def parameters(self) -> MixtureParameters:
        """Parameters of the best start so far."""
        best = self._best()
        assert best is not None
        return self._estimation.parameters(best.state)

    def _alive(self) -> dict[int, EMStart[State]]:
        return {number: start for number, start in self.state.starts.items() if start.collapsed is None}

    def _best(self) -> EMStart[State] | None:
        return max(self._alive().values(), key=lambda start: start.lower_bound, default=None)

    def _has_converged(self, start: EMStart[State]) -> bool:
        """Test for convergence to the tolerance of the settings, which may have been tightened since."""
        bounds = start.lower_bounds
        settled = len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < self._settings.tol
        return start.converged or (self.state.n_tightened > 0 and not start.stopped and settled)

    # ---- steps

    def stepped(self, number: int, start: EMStart[State], step: Step) -> EMStart[State]:
        """Record a step of a start, and stop the start if it is hopeless; return the start."""
        self._set(number, start)
        bound = step.lower_bound if np.isfinite(step.lower_bound) else None
        self.record(step.kind, number, bound, step.seconds, step.arithmetic, step.records)
        if start.failure is not None:
            self._drop(number, start.failure)
        elif step.kind != "refined":
            self._emit_step(number, start, step)
            if start.lower_bounds and self._is_hopeless and self._is_hopeless(number, start.lower_bounds, self.n_free):
                start = self._stopped(number, start)
        self._emit_if_finished(number)
        return start

    def record(
        self,
        kind: str,
        start: int,
        lower_bound: float | None,
        seconds: float,
        arithmetic: str,
        more: tuple[PassRecord, ...] = (),
    ) -> None:
        """Record a pass over the data, and the iterations on samples that belong to it."""
        n_rows, reading = self._dataset.n_rows, self._engine.reading
        record = PassRecord(
            kind, start, 1, lower_bound, n_rows, reading.bytes_read, seconds, arithmetic, reading.bytes_cached
        )
        self.state = replace(
            self.state, history=(*self.state.history, record, *(replace(each, start=start) for each in more))
        )

    def _stopped(self, number: int, start: EMStart[State]) -> EMStart[State]:
        if start.is_finished(self._em.max_iter):
            return start
        self._set(number, stopped := replace(start, stopped=True))
        return stopped

    def _note(self, *warnings: Warning) -> None:
        self.state = replace(self.state, notes=(*self.state.notes, *warnings))

    def _emit_step(self, number: int, start: EMStart[State], step: Step) -> None:
        self._engine.emit(
            IterationFinished(
                number,
                start.n_iter,
                step.lower_bound,
                step.change,
                step.seconds,
                step.arithmetic,
                self._estimation.measure,
                step.kind,
                self._spec.label,
            )
        )

    def _emit_if_finished(self, number: int) -> None:
        start = self.state.starts[number]
        if start.is_finished(self._em.max_iter):
            converged = self._has_converged(start)
            self._emit_end(number, start.n_iter, start.lower_bound, converged=converged, stopped=start.stopped)

    def _emit_end(
        self, number: int, n_iter: int, lower_bound: float, *, converged: bool, stopped: bool = False
    ) -> None:
        measure, label = self._estimation.measure, self._spec.label
        self._engine.emit(StartFinished(number, n_iter, lower_bound, converged, measure, label, stopped))

    # ---- the end

    def outcome(self) -> FitResult[State] | FailedFit:
        """Return the best start as a result, or a failure if all starts collapsed."""
        history, warnings = list(self.state.history), list(self.state.notes)
        best = self._best()
        if best is None:
            assert self.state.collapsed is not None
            return FailedFit(IllDefinedCovarianceError(self.state.collapsed), history, warnings)
        return FitResult(
            best.state,
            list(best.lower_bounds),
            best.n_iter,
            self._has_converged(best),
            history,
            [*warnings, *self._notes_of(best)],
            self._engine.environment() | {"loops": self.backend.made_by},
            stopped=best.stopped,
            gain_left=gain_left(best),
            n_incomplete=self._n_incomplete,
        )

    def _notes_of(self, best: EMStart[State]) -> Iterator[Any]:
        yield from (notes.began_anew(reseeding, self._of) for reseeding in best.reseedings)
        yield from notes.coincidences(self._estimation, best, self._weight_sum, self._n_weighted, self._of)
