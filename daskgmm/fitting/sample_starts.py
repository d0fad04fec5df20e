"""Starts on samples in memory: their context, EM on a sample, and the records of its iterations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.estimation import Estimation, State
from ..core.kernel_choice import MixtureShape
from ..engine.interface import Engine
from ..errors import IllDefinedCovarianceError
from .em import EMRun, EMSettings, Step, run_em
from .em_start import EMStart, Reseeding
from .estep_pass import EStepPass
from .events import SampleFitted, SampleStepped
from .fit_spec import Settings
from .history import PassRecord
from .initialization import Sample

# Iterations on a sample are cheap compared with iterations on all data, so starts run closer to convergence there.
_TOL_FACTOR = 0.1


@dataclass(frozen=True)
class StartContext(Generic[State]):
    """Context of the starts of a mixture on samples."""

    engine: Engine
    """Engine of the whole fit, which receives events. Threads of this process work on samples."""
    settings: Settings
    estimation: Estimation[State]
    sample: Sample
    n_rows: int
    """Rows of all data with positive weight: their number limits the arithmetic on samples."""
    random_state: np.random.RandomState
    n_starts: int
    backend: Callable[[MixtureShape], ElementwiseBackend]
    """Shape of a mixture -> `ElementwiseBackend` of the kernels."""
    dropped: Callable[[int, IllDefinedCovarianceError], Any]
    """Called with the number of a start that ended in a collapsed component, and the error."""
    label: str = ""
    """Label of the mixture."""


@dataclass(frozen=True)
class SampleStart(Generic[State]):
    """State of a start between two samples."""

    state: State
    lower_bound: float = -np.inf
    """Bound on the last sample."""
    reseedings: tuple[tuple[int, Reseeding], ...] = ()
    """Reseedings, each with the number of rows of the sample."""


SampleStarts = dict[int, SampleStart[State]]
"""Starts by number."""


@dataclass(frozen=True)
class SampleFit(Generic[State]):
    """Outcome of the starts of a mixture on samples."""

    best: SampleStart[State] | None
    """Best start; None if all starts ended in a collapsed component."""
    records: tuple[PassRecord, ...]
    """Records of all starts."""


def best_of(starts: SampleStarts[State]) -> SampleStarts[State]:
    """Keep the start with the largest bound, if there is one."""
    if not starts:
        return {}
    best = max(starts, key=lambda number: starts[number].lower_bound)
    return {best: starts[best]}


def run_to_end(
    context: StartContext[State], estep_pass: EStepPass, starts: SampleStarts[State], max_iter: int
) -> tuple[SampleStarts[State], list[PassRecord]]:
    """Run starts on a sample to their ends, and emit an event for each; see `run`."""
    begin, n_rows, measure = time.perf_counter(), estep_pass.dataset.n_rows, context.estimation.measure
    alive, ends, records = _run(context, estep_pass, starts, max_iter)
    seconds = time.perf_counter() - begin
    for number, end in ends.items():
        context.engine.emit(
            SampleFitted(
                number,
                context.n_starts,
                n_rows,
                end.n_iter,
                end.lower_bound,
                end.converged,
                seconds,
                measure,
                context.label,
            )
        )
    return alive, records


def run(
    context: StartContext[State], estep_pass: EStepPass, starts: SampleStarts[State], max_iter: int
) -> tuple[SampleStarts[State], list[PassRecord]]:
    """Run EM on a sample.

    Returns
    -------
    starts : dict of int to SampleStart
        Starts without a collapse.
    records : list of PassRecord
        Records of all starts.
    """
    alive, _, records = _run(context, estep_pass, starts, max_iter)
    return alive, records


def _run(
    context: StartContext[State], estep_pass: EStepPass, starts: SampleStarts[State], max_iter: int
) -> tuple[SampleStarts[State], dict[int, EMStart[State]], list[PassRecord]]:
    settings, begin, n_rows = context.settings, time.perf_counter(), estep_pass.dataset.n_rows
    em: EMSettings[State] = EMSettings(
        _TOL_FACTOR * settings.tol, max_iter, settings.accelerator, single=settings.single
    )
    numbers, arithmetic = list(starts), dict.fromkeys(starts, "")

    def on_step(place: int, start: EMStart[State], step: Step) -> EMStart[State]:
        number = numbers[place]
        arithmetic[number] = step.arithmetic
        _emit_step(context, number, n_rows, start, step)
        return start

    runs = [EMRun(context.estimation, em, em.begin(start.state)) for start in starts.values()]
    ends = dict(zip(numbers, run_em(estep_pass, runs, on_step), strict=True))
    seconds = time.perf_counter() - begin
    records = [
        PassRecord.of_sample(number, end.n_iter, end.lower_bound, n_rows, seconds, arithmetic[number])
        for number, end in ends.items()
    ]
    return _alive(context, starts, ends, n_rows), ends, records


def _alive(
    context: StartContext[State], starts: SampleStarts[State], ends: dict[int, EMStart[State]], n_rows: int
) -> SampleStarts[State]:
    """Return the starts at their ends; drop the collapsed ones."""
    alive = {}
    for number, end in ends.items():
        if end.failure is None:
            reseedings = tuple((n_rows, reseeding) for reseeding in end.reseedings)
            alive[number] = SampleStart(end.state, end.lower_bound, (*starts[number].reseedings, *reseedings))
        else:
            context.dropped(number, end.failure)
    return alive


def _emit_step(context: StartContext[State], number: int, n_rows: int, start: EMStart[State], step: Step) -> None:
    context.engine.emit(
        SampleStepped(
            number,
            context.n_starts,
            n_rows,
            start.n_iter,
            step.lower_bound,
            step.change,
            context.estimation.measure,
            context.label,
        )
    )
