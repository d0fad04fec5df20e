"""A whole fit: survey, starts, the best of them; of one mixture, or of several that share every reading of the data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Generic

from ..core.elementwise import PLAIN
from ..core.estimation import State
from ..core.statistics import Frame
from ..data.dataset import Dataset
from ..engine.events import Waiting
from ..engine.interface import Engine
from ..engine.probe import probe
from .em import EMStart, Step, run_em
from .estep_pass import EStepPass
from .events import FitResumed
from .first_pass import backend_for, take_surveys
from .fit_spec import FailedFit, FitResult, FitSpec
from .fit_state import Beginning, Checkpointer, EarlyStop, Snapshot
from .mixture_fit import MixtureFit
from .survey import Survey


class MixtureFits(Generic[State]):
    """Several mixtures on their way; those that are still running share every reading of the data.

    Each becomes, to the last bit, what it becomes alone, and what it becomes when it was interrupted between two passes
    and went on from what a `Checkpointer` has.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    specs : sequence of FitSpec
    checkpointer : Checkpointer, optional
        Is given the state after each pass, and has the state that an earlier run left.
    early_stop : EarlyStop, optional
        Asked after each iteration whether to give up a start.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        specs: Sequence[FitSpec[State]],
        checkpointer: Checkpointer | None = None,
        early_stop: EarlyStop | None = None,
    ) -> None:
        self._engine, self._dataset, self._specs = engine, dataset, list(specs)
        self._checkpointer, self._early_stop = checkpointer, early_stop
        self._pruner_state = None if early_stop is None else early_stop.initial()
        self._fits: list[MixtureFit[State]] = []

    def run(self) -> None:
        """Take all of them to their ends.

        Raises
        ------
        NonFiniteDataError, InvalidWeightsError, DataChangedError, ChunkError
            Whatever the passes find.
        SchedulerError
            If the scheduler does not answer.
        """
        surveys, seconds, kept = self._survey()
        frame, weight_sum = Frame.of(surveys[0].mean, surveys[0].deviation), surveys[0].weight_sum
        estep_pass = EStepPass(self._engine, self._dataset, frame, partial(backend_for, self._dataset), weight_sum)
        fits = [
            MixtureFit(self._engine, self._dataset, spec, survey, frame, partial(self._is_hopeless, number, weight_sum))
            for number, (spec, survey) in enumerate(zip(self._specs, surveys, strict=True))
        ]
        if kept is None:
            self._begin(fits, estep_pass, seconds)
        else:
            self._resume(fits, estep_pass, kept)
        self._tell_of_loading()
        running = [(fit, number, run) for fit in fits for number, run in fit.runs().items()]

        def on_step(place: int, start: EMStart[State], step: Step) -> EMStart[State]:
            fit, number, _ = running[place]
            return fit.stepped(number, start, step)

        run_em(estep_pass, [run for *_, run in running], on_step, lambda: self._keep(estep_pass))

    def outcomes(self) -> list[FitResult[State] | FailedFit]:
        """Find the best start of each so far; nothing before the starts have been made."""
        return [fit.outcome() for fit in self._fits]

    def _survey(self) -> tuple[list[Survey], float, Snapshot | None]:
        """Surveys by the first pass, or by that of an earlier run; its seconds; what the earlier run came to."""
        checkpointer, dataset = self._checkpointer, self._dataset
        probes = () if checkpointer is None else tuple(probe(self._engine, dataset))
        kept = None if checkpointer is None else checkpointer.beginning()
        if checkpointer is not None and kept is not None:
            checkpointer.check_probes(kept.probes, probes)
            dataset.guard.check(kept.checksum)
            self._engine.n_passes += kept.n_passes
            self._specs = [
                replace(spec, random_state=record.restore())
                for spec, record in zip(self._specs, kept.random_states, strict=True)
            ]
            return [kept.survey(number) for number in range(len(self._specs))], kept.seconds, checkpointer.latest()
        begin = time.perf_counter()
        surveys = take_surveys(self._engine, dataset, self._specs)
        seconds = time.perf_counter() - begin
        if checkpointer is not None:
            assert dataset.guard.checksum is not None
            random_states = [spec.random_state for spec in self._specs]
            checkpointer.keep_beginning(
                Beginning.of(surveys, random_states, dataset.guard.checksum, probes, self._engine.n_passes, seconds)
            )
        return surveys, seconds, None

    def _begin(self, fits: list[MixtureFit[State]], estep_pass: EStepPass, seconds: float) -> None:
        for fit in fits:
            fit.record("survey", 0, None, seconds, "")
            fit.begin()
        self._fits = fits
        self._keep(estep_pass)

    def _resume(self, fits: list[MixtureFit[State]], estep_pass: EStepPass, kept: Snapshot) -> None:
        estep_pass.common.update(kept.common)
        self._engine.n_passes = kept.n_passes
        for fit, state in zip(fits, kept.fits, strict=True):
            fit.resume(state)
        if self._early_stop is not None and kept.pruner_state is not None:
            self._pruner_state = kept.pruner_state
        self._engine.emit(FitResumed(kept.n_passes))
        self._fits = fits

    def _is_hopeless(self, fit: int, weight_sum: float, start: int, bounds: Sequence[float]) -> bool:
        if self._early_stop is None or self._pruner_state is None:
            return False
        n_free = self._fits[fit].n_free
        self._pruner_state, hopeless = self._early_stop(self._pruner_state, (fit, start), bounds, weight_sum, n_free)
        return hopeless

    def _tell_of_loading(self) -> None:
        """Say so if the first E-step waits for machine code. What workers have loaded is not known."""
        engine = self._engine
        waiting = [fit.backend for fit in self._fits if fit.is_running]
        if any(backend is not PLAIN and (engine.is_remote or not backend.is_loaded) for backend in waiting):
            engine.emit(Waiting("loading compiled loops"))

    def _keep(self, estep_pass: EStepPass) -> None:
        if self._checkpointer is not None:
            fits = tuple(fit.state for fit in self._fits)
            self._checkpointer.keep(Snapshot(self._engine.n_passes, dict(estep_pass.common), fits, self._pruner_state))


def fit_mixtures(
    engine: Engine,
    dataset: Dataset,
    specs: Sequence[FitSpec[State]],
    checkpointer: Checkpointer | None = None,
    early_stop: EarlyStop | None = None,
) -> list[FitResult[State] | FailedFit]:
    """Fit several mixtures: `MixtureFits`, from its beginning to its end.

    Returns
    -------
    list of FitResult or FailedFit
        One for each of ``specs``.
    """
    fits = MixtureFits(engine, dataset, specs, checkpointer, early_stop)
    fits.run()
    return fits.outcomes()
