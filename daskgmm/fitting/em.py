"""Expectation-maximisation (Dempster, Laird & Rubin 1977): the loop over starts, and its stopping rules.

An `Estimation` defines the objective: the likelihood, or the lower bound of variational inference. Two values describe
a start: `EMStart` is its state, `EMSettings` are its limits. The loop knows three functions::

    request(estimation, settings, start)           the E-step that the start waits for
    estep_pass(requests)                           the E-steps of all running starts, in one reading of the data
    advance(estimation, settings, start, result)   the M-step, and the next state of the start

A component that collapses, or that loses all its rows, is reseeded (`Estimation.reseed`), at most `RESEEDINGS` times in
a start. After that, or where no reseeding is possible, a collapse ends the start, and an empty component stays empty.

A change of the bound decides nothing if rounding may have caused the change. While the rounding error of the bound
(`Kernel.rounding`) is larger than ``tol``, the start has not converged; and once the bound changes by no more than its
rounding error, the next E-steps use the next finer arithmetic.

With ``EMSettings.single``, the first E-steps may round rows of any dtype to single precision, while the rounding error
of the bound is small beside the last gain (`_accept`). All decisions between small gains, the convergence and the
end of a start belong to E-steps in the precision of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np

from ..core.acceleration import Accelerator, AcceleratorState, EMStep, SampleWork
from ..core.estimation import Estimation, State
from ..core.kernel_choice import ARITHMETICS, finer
from ..core.mixture import MixtureParameters
from ..errors import IllDefinedCovarianceError
from .em_start import EMStart, Proposal, Reseeding
from .estep_pass import EStepRequest, EStepResult
from .history import PassRecord
from .low_density_rows import DensityThreshold

Array = np.ndarray[Any, np.dtype[Any]]

#: Largest number of reseedings in one start.
RESEEDINGS = 3

# Relative rounding error of the bound: a step that changes nothing may lower the bound by this much.
_ROUNDING = 1e-12

# Largest share of the last gain that may be rounding for the next E-step to be in single precision.
_ROUNDED_SHARE = 0.01

# Multiple of ``tol`` below which E-steps are in the precision of the rows: the last change of the bound, which decides
# whether a start has converged, should be between two such E-steps.
_NEARLY = 10.0

# Last E-steps of a start that reaches its limit in the precision of the rows. One would not do: it may be rejected.
_LAST = 2


class Relocator(Protocol[State]):
    """Search for a better state, once in a start, among the low-density rows of an E-step."""

    def threshold(self, parameters: MixtureParameters) -> DensityThreshold:
        """Return the threshold below which an E-step with these parameters keeps rows."""

    def __call__(self, result: EStepResult, updated: State) -> Relocated[State]:
        """Search for a better state than ``updated``, the result of the M-step on ``result``."""


@dataclass(frozen=True)
class Relocated(Generic[State]):
    """Outcome of a relocation."""

    state: State | None = None
    """Proposed state for the next E-step; None if the search found none."""
    records: tuple[PassRecord, ...] = ()
    """Records of the search's iterations on a sample."""


@dataclass(frozen=True)
class EMSettings(Generic[State]):
    """Settings and limits of a start."""

    tol: float
    """Change of the bound below which a start has converged, in nats per unit of weight."""
    max_iter: int
    """Largest number of E-steps, rejected ones included."""
    accelerator: Accelerator[Any] | None = None
    """Proposer of longer steps; None for plain EM."""
    relocator: Relocator[State] | None = None
    """Called after the first plain step. The start keeps the proposed state only if the bound is higher there."""
    single: bool = False
    """The first E-steps may round rows of any dtype to single precision; they then leave the trajectory of exact EM."""

    def begin(self, state: State, lower_bound: float = -np.inf) -> EMStart[State]:
        """Make a start at a state; ``lower_bound`` is the last bound of an earlier fit that the start continues."""
        return EMStart(
            state,
            compared_bound=lower_bound,
            single=self.single and lower_bound == -np.inf,  # a fit that is continued may be at its end
            relocates=self.relocator is not None,
            accelerator=self.initial_acceleration(),
        )

    def initial_acceleration(self) -> AcceleratorState | None:
        """Initial state of the accelerator; None for plain EM."""
        return None if self.accelerator is None else self.accelerator.initial()


@dataclass(frozen=True)
class Step:
    """Outcome of an E-step."""

    kind: str
    """Kind of the step, as in `PassRecord`."""
    lower_bound: float
    change: float
    """Difference from the previous bound; infinite for the first bound, NaN for a step without one."""
    seconds: float
    arithmetic: str
    records: tuple[PassRecord, ...] = ()
    """Records of iterations on samples within the step."""

    @classmethod
    def of(cls, kind: str, result: EStepResult, bound: float = np.nan, change: float = np.nan) -> Step:
        """Make the step of an E-step's result."""
        return cls(kind, bound, change, result.seconds, result.kernel.arithmetic)


class EMRun(NamedTuple, Generic[State]):
    """A start with its estimation and settings: the arguments of `request` and `advance`."""

    estimation: Estimation[State]
    settings: EMSettings[State]
    start: EMStart[State]

    @property
    def is_finished(self) -> bool:
        """Test whether the start needs no further E-step."""
        return self.start.is_finished(self.settings.max_iter)


def run_em(
    estep_pass: Callable[[Sequence[EStepRequest]], list[EStepResult]],
    runs: Iterable[EMRun[Any]],
    on_step: Callable[[int, EMStart[Any], Step], EMStart[Any]] = lambda _, start, __: start,
    on_pass: Callable[[], Any] = lambda: None,
) -> list[EMStart[Any]]:
    """Run EM on several starts until all are finished; the running starts share every reading of the data.

    Parameters
    ----------
    estep_pass : callable
        `EStepPass`, or another function from requested E-steps to their results.
    runs : iterable of EMRun
    on_step : callable
        Called with the number of a start, the start after a step, and the step; returns the start, or a stopped copy.
    on_pass : callable
        Called after every reading of the data, when all running starts have advanced.

    Returns
    -------
    list of EMStart
    """
    runs = list(runs)
    while running := [number for number, run in enumerate(runs) if not run.is_finished]:
        results = estep_pass([request(*runs[number]) for number in running])
        for number, result in zip(running, results, strict=True):
            start, step = advance(*runs[number], result)
            runs[number] = runs[number]._replace(start=on_step(number, start, step))
        on_pass()
    return [run.start for run in runs]


def request(estimation: Estimation[State], settings: EMSettings[State], start: EMStart[State]) -> EStepRequest:
    """Make the request for the E-step that a start waits for."""
    parameters = estimation.parameters(start.next_state)
    relocator = settings.relocator if start.relocates else None
    threshold = None if relocator is None else relocator.threshold(parameters)
    coarsest = ARITHMETICS[-1] if start.precise else start.coarsest
    return EStepRequest(parameters, coarsest, threshold, start.single and start.n_iter < settings.max_iter - _LAST)


def advance(
    estimation: Estimation[State], settings: EMSettings[State], start: EMStart[State], result: EStepResult
) -> tuple[EMStart[State], Step]:
    """Compute the M-step, and accept, reject or refine it; return the next state of the start.

    Returns
    -------
    start : EMStart
    step : Step
    """
    try:
        updated = estimation.update(result.statistics)
        fine = result.finest or result.kernel.resolves(estimation.parameters(updated))
    except IllDefinedCovarianceError as error:
        if result.finest:
            return _collapse(estimation, settings, _counted(start), result, error.components)
        fine = False
    if not fine:
        return _refine(start, result)
    start, m_step = _counted(start), _compare(estimation, start, updated, result)
    if start.proposal and m_step.falls:
        return _reject(settings, start, result, m_step.bound, m_step.change)
    empty = estimation.empty(result.statistics)
    if empty and (reseeded := _reseed(estimation, settings, start, result, empty, collapsed=False)):
        return reseeded
    return _relocate(settings, *_accept(settings, start, result, m_step))


@dataclass(frozen=True)
class _MStep(Generic[State]):
    """Result of an M-step, and its bound."""

    updated: State
    bound: float
    change: float
    """Difference from ``compared_bound``."""
    rounding: float
    """Largest possible rounding error of the bound."""
    doubt: float
    """Larger rounding error of the two bounds: rounding may have caused a change up to this size."""

    @property
    def falls(self) -> bool:
        """Test whether the bound is lower than before by more than rounding; NaN counts as lower."""
        return not self.change >= -max(self.doubt, _ROUNDING * abs(self.bound))


def _compare(
    estimation: Estimation[State], start: EMStart[State], updated: State, result: EStepResult
) -> _MStep[State]:
    bound = estimation.bound(result.statistics, updated)
    rounding = result.kernel.rounding(estimation.parameters(updated))
    return _MStep(updated, bound, bound - start.compared_bound, rounding, max(rounding, start.rounding))


def _counted(start: EMStart[State]) -> EMStart[State]:
    """Count an E-step in sufficiently fine arithmetic."""
    return replace(start, n_iter=start.n_iter + 1, precise=False)


def _refine(start: EMStart[State], result: EStepResult) -> tuple[EMStart[State], Step]:
    """Request the E-step again, in the precision of the rows if it rounded them, otherwise in the finest arithmetic.

    The components of the M-step are too narrow to be resolved in the arithmetic of this E-step.
    """
    finer_start = replace(start, single=False) if result.rounded else replace(start, precise=True)
    return finer_start, Step.of("refined", result)


def _collapse(
    estimation: Estimation[State],
    settings: EMSettings[State],
    start: EMStart[State],
    result: EStepResult,
    components: tuple[int, ...],
) -> tuple[EMStart[State], Step]:
    """Reject a proposal at which components collapsed; otherwise reseed the components, or end the start."""
    if start.proposal:
        return _reject(settings, start, result, -np.inf, -np.inf)
    if components and (reseeded := _reseed(estimation, settings, start, result, components, collapsed=True)):
        return reseeded
    return replace(start, collapsed=components), Step.of("em", result)


def _reject(
    settings: EMSettings[State], start: EMStart[State], result: EStepResult, bound: float, change: float
) -> tuple[EMStart[State], Step]:
    """Drop a proposal; return to the state of the last M-step, or to another proposal of the accelerator."""
    accelerator_state, proposal = start.accelerator, start.deferred
    if start.proposal and start.proposal.kind == "accelerated" and settings.accelerator is not None:
        accelerator_state, other = settings.accelerator.reject(accelerator_state, start.state)  # type: ignore[arg-type]
        proposal = _accelerated(other)
    rejected = replace(start, proposal=proposal, deferred=None, accelerator=accelerator_state)
    return rejected, Step.of("rejected", result, bound, change)


def _accelerated(proposed: Any) -> Proposal[Any] | None:
    """Make the proposal of an accelerator, which knows mixture parameters only: then the state is one."""
    return None if proposed is None else Proposal(proposed, "accelerated")


def _reseed(
    estimation: Estimation[State],
    settings: EMSettings[State],
    start: EMStart[State],
    result: EStepResult,
    lost: tuple[int, ...],
    *,
    collapsed: bool,
) -> tuple[EMStart[State], Step] | None:
    """Replace lost components by new ones; return None if the reseedings are used up or not possible."""
    if len(start.reseedings) >= RESEEDINGS:
        return None
    state = estimation.reseed(result.statistics, lost)
    if state is None:
        return None
    bound = estimation.bound(result.statistics, state)
    # The next state is unrelated to the last one: its bound may be lower, so the two are not compared.
    reseeded = replace(
        start,
        state=state,
        proposal=None,
        deferred=None,
        lower_bounds=(*start.lower_bounds, bound),
        compared_bound=-np.inf,
        rounding=0.0,
        single=settings.single,
        reseedings=(*start.reseedings, Reseeding(start.n_iter, lost, collapsed)),
        accelerator=settings.initial_acceleration(),
    )
    return reseeded, Step.of("reseeded", result, bound, bound - start.compared_bound)


def _accept(
    settings: EMSettings[State], start: EMStart[State], result: EStepResult, m_step: _MStep[State]
) -> tuple[EMStart[State], Step, EStepResult]:
    """Accept the M-step; the next E-step is computed at its state, or at the accelerator's proposal."""
    accelerator_state, proposal = start.accelerator, None
    records: tuple[PassRecord, ...] = ()
    if start.proposal and start.proposal.kind == "moved":
        accelerator_state = settings.initial_acceleration()
    if settings.accelerator is not None:
        at: Any = start.next_state
        updated: Any = m_step.updated
        is_last = start.n_iter >= settings.max_iter
        step = EMStep(at, updated, result.statistics, m_step.bound, m_step.change, settings.tol, is_last)
        proposed = settings.accelerator.propose(accelerator_state, step)
        accelerator_state, proposal, records = proposed.state, _accelerated(proposed.mixture), _records(proposed.work)
    settled = _settled(settings, accelerator_state, m_step.change, settings.tol)
    # Before two bounds can be compared, an accelerator predicts the next gain.
    change = 0.0 if m_step.change == np.inf and settings.accelerator is not None else m_step.change
    nearly = _settled(settings, accelerator_state, change, _NEARLY * settings.tol)
    # With tol = 0 no start converges, and no arithmetic is fine enough.
    refines = 0 < settings.tol < m_step.rounding and abs(m_step.change) <= m_step.doubt
    accepted = replace(
        start,
        state=m_step.updated,
        proposal=proposal,
        deferred=None,
        lower_bounds=(*start.lower_bounds, m_step.bound),
        compared_bound=m_step.bound,
        rounding=m_step.rounding,
        converged=m_step.doubt <= settings.tol and settled and not result.rounded,
        coarsest=finer(result.kernel.arithmetic) if refines and not result.rounded else start.coarsest,
        single=start.single and not nearly and m_step.rounding <= _ROUNDED_SHARE * m_step.change,
        accelerator=accelerator_state,
    )
    kind = start.proposal.kind if start.proposal else "em"
    return accepted, replace(Step.of(kind, result, m_step.bound, m_step.change), records=records), result


def _records(work: SampleWork | None) -> tuple[PassRecord, ...]:
    """Make the record of an accelerator's steps on a sample."""
    if work is None:
        return ()
    return (PassRecord("sample", 0, work.n_iter, None, work.n_rows, 0, work.seconds, work.arithmetic),)


def _settled(
    settings: EMSettings[State], accelerator_state: AcceleratorState | None, change: float, tol: float
) -> bool:
    """Test whether a start has converged to ``tol``, as far as the change of the bound is not rounding."""
    if settings.accelerator is None:
        return abs(change) < tol
    return settings.accelerator.settled(accelerator_state, change, tol)


def _relocate(
    settings: EMSettings[State], start: EMStart[State], step: Step, result: EStepResult
) -> tuple[EMStart[State], Step]:
    """Ask the relocator, once, for a better state than that of the first plain step."""
    if not start.relocates:
        return start, step
    start = replace(start, relocates=False)
    if start.is_finished(settings.max_iter) or settings.relocator is None:
        return start, step
    relocated = settings.relocator(result, start.state)
    step = replace(step, records=(*step.records, *relocated.records))
    if relocated.state is None:
        return start, step
    return replace(start, proposal=Proposal(relocated.state, "moved"), deferred=start.proposal), step
