"""Fits of one mixture, or of several that share every reading of the data: survey, starts, and the best start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Generic

from ..core.elementwise import PLAIN
from ..core.estimation import State
from ..core.statistics import Frame
from ..core.structure import CovarianceStructure
from ..data.dataset import Dataset
from ..data.reading import Reading
from ..engine.events import Waiting
from ..engine.interface import Engine
from ..engine.probe import probe
from .comparison import MOST_GROWN, Comparison
from .em import Step, run_em
from .em_start import EMStart
from .estep_pass import EStepPass
from .events import FitResumed
from .first_pass import backend_for, take_surveys
from .fit_spec import FailedFit, FitResult, FitSpec
from .fit_state import Beginning, Checkpointer, EarlyStop, Snapshot
from .mixture_fit import MixtureFit
from .shared_search import Outcome, search_together
from .survey import Survey


class MixtureFits(Generic[State]):
    """Fits of several mixtures; the running fits share every reading of the data.

    Mixtures of one covariance structure whose fits begin with a search share it (`search_together`). The result of each
    other fit has the same bits as a fit of that mixture alone, without a ``comparison``. Fits that were interrupted
    between two passes and resumed from a `Checkpointer` have the same bits as without an interruption.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    specs : sequence of FitSpec
    checkpointer : Checkpointer, optional
        Keeps the state after each pass, and returns the state of an earlier run.
    early_stop : EarlyStop, optional
        Called after each iteration; decides whether to stop a start.
    comparison : Comparison, optional
        Decides, when all fits have ended, which of them go on. None: none of them.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        specs: Sequence[FitSpec[State]],
        checkpointer: Checkpointer | None = None,
        early_stop: EarlyStop | None = None,
        comparison: Comparison | None = None,
    ) -> None:
        self._engine, self._dataset, self._specs = engine, dataset, list(specs)
        self._checkpointer, self._pruner = checkpointer, None if early_stop is None else _Pruner(early_stop)
        self._comparison = comparison
        self._fits: list[MixtureFit[State]] = []

    def run(self) -> None:
        """Run all fits to their ends.

        Raises
        ------
        NonFiniteDataError, InvalidWeightsError, DataChangedError, ChunkError
            If a pass finds invalid, changed or unreadable data.
        SchedulerError
            If the scheduler does not answer.
        """
        surveys, seconds, snapshot = self._survey()
        if surveys[0].n_incomplete == 0:
            self._dataset = self._dataset.known_complete()
        frame, weight_sum = Frame.of(surveys[0].mean, surveys[0].deviation), surveys[0].weight_sum
        estep_pass = EStepPass(self._engine, self._dataset, frame, partial(backend_for, self._dataset), weight_sum)
        fits = [
            MixtureFit(
                self._engine,
                self._dataset,
                spec,
                survey,
                frame,
                None if self._pruner is None else partial(self._pruner, number, weight_sum),
            )
            for number, (spec, survey) in enumerate(zip(self._specs, surveys, strict=True))
        ]
        if snapshot is None:
            self._begin(fits, estep_pass, seconds)
        else:
            self._resume(fits, estep_pass, snapshot)
        self._emit_loading()
        self._run(estep_pass)
        while self._goes_on(weight_sum):
            self._run(estep_pass)

    def _run(self, estep_pass: EStepPass) -> None:
        """Run all starts to their ends."""
        running = [(fit, number, run) for fit in self._fits for number, run in fit.runs().items()]

        def on_step(place: int, start: EMStart[State], step: Step) -> EMStart[State]:
            fit, number, _ = running[place]
            return fit.stepped(number, start, step)

        run_em(estep_pass, [run for *_, run in running], on_step, lambda: self._keep(estep_pass))

    def _goes_on(self, weight_sum: float) -> bool:
        """Let fits go on that a comparison of all fits has found wanting; return False if there are none."""
        if self._comparison is None:
            return False
        standings = [fit.standing for fit in self._fits]
        falling = self._comparison.falling(standings, [fit.tol for fit in self._fits], weight_sum)
        grown = [(self._fits[number], self._fits[smaller].parameters) for number, smaller in falling.items()]
        grown = [(fit, smaller) for fit, smaller in grown if fit.state.n_grown < MOST_GROWN]
        for fit, smaller in grown:
            fit.grow(smaller)
        if grown:
            return True
        undecided = [self._fits[number] for number in self._comparison.undecided(standings, weight_sum)]
        open_ones = [fit for fit in undecided if fit.can_tighten]
        for fit in open_ones:
            fit.tighten()
        return bool(open_ones)

    def outcomes(self) -> list[FitResult[State] | FailedFit]:
        """Return the best start of each fit so far; the list is empty before the starts have been made."""
        return [fit.outcome() for fit in self._fits]

    def _survey(self) -> tuple[list[Survey], float, Snapshot | None]:
        """Return the surveys, the seconds of their pass, and the last snapshot of an earlier run, or None."""
        checkpointer, dataset = self._checkpointer, self._dataset
        probes = () if checkpointer is None else tuple(probe(self._engine, dataset))
        beginning = None if checkpointer is None else checkpointer.beginning()
        if checkpointer is not None and beginning is not None:
            checkpointer.check_probes(beginning.probes, probes)
            dataset.guard.check(beginning.checksum)
            self._engine.n_passes += beginning.n_passes
            self._engine.reading = Reading(dataset.n_rows * sum(source.row_bytes for source in dataset.sources))
            self._specs = [
                replace(spec, random_state=record.restore())
                for spec, record in zip(self._specs, beginning.random_states, strict=True)
            ]
            surveys = [beginning.survey(number) for number in range(len(self._specs))]
            return surveys, beginning.seconds, checkpointer.latest()
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
        outcomes = self._search(fits)
        for number, fit in enumerate(fits):
            fit.record("survey", 0, None, seconds, "")
            fit.begin(outcomes.get(number))
        self._fits = fits
        self._keep(estep_pass)

    def _search(self, fits: Sequence[MixtureFit[State]]) -> dict[int, Outcome]:
        """Search once for the starts of all numbers of components of a covariance structure."""
        groups: dict[CovarianceStructure, dict[int, int]] = {}
        for number, fit in enumerate(fits):
            if fit.shares_search:
                groups.setdefault(fit.how.structure, {})[fit.how.n_components] = number
        outcomes: dict[int, Outcome] = {}
        for group in groups.values():
            if len(group) > 1:
                shared = search_together(self._engine, {k: fits[number].context for k, number in group.items()})
                outcomes |= {group[k]: outcome for k, outcome in shared.items()}
        return outcomes

    def _resume(self, fits: list[MixtureFit[State]], estep_pass: EStepPass, snapshot: Snapshot) -> None:
        estep_pass.common.update(snapshot.common)
        self._engine.n_passes = snapshot.n_passes
        for fit, state in zip(fits, snapshot.fits, strict=True):
            fit.resume(state)
        if self._pruner is not None and snapshot.pruner_state is not None:
            self._pruner.state = snapshot.pruner_state
        self._engine.emit(FitResumed(snapshot.n_passes))
        self._fits = fits

    def _emit_loading(self) -> None:
        """Emit `Waiting` if the first E-step has to load machine code; on workers it always may."""
        engine = self._engine
        waiting = [fit.backend for fit in self._fits if fit.is_running]
        if any(backend is not PLAIN and (engine.is_remote or not backend.is_loaded) for backend in waiting):
            engine.emit(Waiting("loading compiled loops"))

    def _keep(self, estep_pass: EStepPass) -> None:
        if self._checkpointer is not None:
            fits = tuple(fit.state for fit in self._fits)
            pruner_state = None if self._pruner is None else self._pruner.state
            self._checkpointer.keep(Snapshot(self._engine.n_passes, dict(estep_pass.common), fits, pruner_state))


class _Pruner:
    """An early stop and its state.

    A fit asks this object and not its `MixtureFits`: a cycle of references would keep the data in the memory of a
    cluster until Python's garbage collector runs.
    """

    def __init__(self, rule: EarlyStop) -> None:
        self._rule, self.state = rule, rule.initial()

    def __call__(self, fit: int, weight_sum: float, start: int, bounds: Sequence[float], n_free: int) -> bool:
        """Decide whether to give up a start of one of the fits."""
        self.state, hopeless = self._rule(self.state, (fit, start), bounds, weight_sum, n_free)
        return hopeless


def fit_mixtures(
    engine: Engine,
    dataset: Dataset,
    specs: Sequence[FitSpec[State]],
    checkpointer: Checkpointer | None = None,
    early_stop: EarlyStop | None = None,
    comparison: Comparison | None = None,
) -> list[FitResult[State] | FailedFit]:
    """Fit several mixtures: run a `MixtureFits` and return its outcomes.

    Returns
    -------
    list of FitResult or FailedFit
        Outcome of each of ``specs``.
    """
    fits = MixtureFits(engine, dataset, specs, checkpointer, early_stop, comparison)
    fits.run()
    return fits.outcomes()
