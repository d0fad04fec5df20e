"""Expectation-maximisation (Dempster, Laird & Rubin 1977): the loop, written once, and when it stops.

What is maximised is an `Estimation`: maximum likelihood, or the bound of variational inference. A start is a value,
`EMStart`, and so is what it is allowed, `EMSettings`. The loop knows three functions::

    request(estimation, settings, start)           the E-step that the start waits for
    estep_pass(requests)                           the E-steps of all running starts, in one reading of the data
    advance(estimation, settings, start, result)   the M-step, and where to go from there

A component that collapses or that no row belongs to any more begins anew (`Estimation.reseed`), at most `RESEEDINGS`
times. After that, or where reseeding does not help, a collapse is the end, and what is empty stays empty.

A change of the bound that may be rounding decides nothing. Where the arithmetic of an E-step may have moved the bound
by more than ``tol`` (`Kernel.rounding`), the start has not converged; and once the bound changes by no more than that,
E-steps are taken in the next finer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np

from ..core.acceleration import Accelerator, AcceleratorState
from ..core.estimation import Estimation, State
from ..core.kernel_choice import ARITHMETICS, finer
from ..core.mixture import MixtureParameters
from ..errors import IllDefinedCovarianceError
from .estep_pass import EStepPass, EStepRequest, EStepResult
from .history import PassRecord
from .low_density_rows import DensityThreshold

Array = np.ndarray[Any, np.dtype[Any]]

#: Times that components of one start may begin anew.
RESEEDINGS = 3

PROPOSALS = ("accelerated", "moved")
"""Steps that count only where the bound does not fall."""

# Of the bound, relative: a step to the same place may come out so much lower.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Reseeding:
    """Components that began anew."""

    n_iter: int
    """After which E-step of the start, counted from 1."""
    components: tuple[int, ...]
    collapsed: bool
    """False: they were empty."""

    def __post_init__(self) -> None:
        if self.n_iter < 0 or not self.components or min(self.components) < 0:
            raise ValueError(f"reseeding of the components {self.components} after E-step {self.n_iter}")


@dataclass(frozen=True)
class Proposal(Generic[State]):
    """A place for the next E-step other than the M-step's."""

    state: State
    kind: str
    """One of `PROPOSALS`."""

    def __post_init__(self) -> None:
        if self.kind not in PROPOSALS:
            raise ValueError(f"proposal is {self.kind!r:.40}; expected one of {PROPOSALS}")


@dataclass(frozen=True)
class EMStart(Generic[State]):
    """The whole state of one start between two E-steps: a start goes on from it with the same bits."""

    state: State
    """The best so far, after its M-step."""
    proposal: Proposal[State] | None = None
    """Where the next E-step is taken instead of at ``state``."""
    lower_bounds: tuple[float, ...] = ()
    """One for each E-step that was not rejected; never falling but for rounding, and where a component was replaced."""
    compared_bound: float = -np.inf
    """Bound that the next one is compared with."""
    rounding: float = 0.0
    """Rounding error that ``compared_bound`` may have."""
    n_iter: int = 0
    """E-steps, those that were rejected included."""
    converged: bool = False
    stopped: bool = False
    """Given up from outside."""
    collapsed: tuple[int, ...] | None = None
    """Components whose collapse ended the start; empty where all components share the covariance."""
    reseedings: tuple[Reseeding, ...] = ()
    precise: bool = False
    """The next E-step repeats the last one in the finest arithmetic."""
    coarsest: str = ARITHMETICS[0]
    """Arithmetic that no E-step is coarser than any more."""
    relocates: bool = False
    """The relocator is still to be asked."""
    accelerator: AcceleratorState | None = None
    """What the accelerator has learnt; None: plain EM."""

    def __post_init__(self) -> None:
        if not sum(self.lower_bounds) < np.inf:
            raise ValueError("lower_bounds contains NaN or infinity")
        if self.rounding < 0:
            raise ValueError(f"rounding is {self.rounding}; expected no negative number")
        if self.n_iter < 0:
            raise ValueError(f"n_iter is {self.n_iter}; expected no negative number")
        if self.collapsed and min(self.collapsed) < 0:
            raise ValueError(f"collapsed is {self.collapsed!r:.40}; expected numbers of components")
        if self.coarsest not in ARITHMETICS:
            raise ValueError(f"coarsest is {self.coarsest!r:.40}; expected one of {ARITHMETICS}")

    @property
    def next_state(self) -> State:
        """Where the next E-step is taken."""
        return self.proposal.state if self.proposal else self.state

    @property
    def lower_bound(self) -> float:
        """Bound of the last E-step that counted; −∞ where there was none."""
        return self.lower_bounds[-1] if self.lower_bounds else -np.inf

    @property
    def failure(self) -> IllDefinedCovarianceError | None:
        """Why the start cannot go on; None where it can."""
        return None if self.collapsed is None else IllDefinedCovarianceError(self.collapsed)

    def is_finished(self, max_iter: int) -> bool:
        """Test whether the start asks for nothing more."""
        return self.converged or self.stopped or self.collapsed is not None or self.n_iter >= max_iter


class Relocator(Protocol[State]):
    """Looks, once, at the rows that an E-step explained worst, and may know a better place to go on from."""

    def threshold(self, parameters: MixtureParameters) -> DensityThreshold:
        """Say which rows to keep, if these are the parameters of the E-step."""

    def __call__(self, result: EStepResult, updated: State) -> Relocated[State]:
        """Look for a place for the next E-step that is better than ``updated``, which the M-step made of ``result``."""


@dataclass(frozen=True)
class Relocated(Generic[State]):
    """Outcome of a relocation."""

    state: State | None = None
    """Where to take the next E-step; None: where the M-step led."""
    records: tuple[PassRecord, ...] = ()
    """Iterations on a sample that the search took."""


@dataclass(frozen=True)
class EMSettings(Generic[State]):
    """What a start is allowed."""

    tol: float
    """A start has converged when the bound changes by less, in nats per unit of weight."""
    max_iter: int
    """Largest number of E-steps, those that were rejected included."""
    accelerator: Accelerator[Any] | None = None
    """None: plain EM."""
    relocator: Relocator[State] | None = None
    """Asked after the first plain step. Its proposal counts if the bound is higher there."""

    def begin(self, state: State, lower_bound: float = -np.inf) -> EMStart[State]:
        """Make a start at a state; ``lower_bound`` is that of an earlier fit that is continued."""
        return EMStart(
            state,
            compared_bound=lower_bound,
            relocates=self.relocator is not None,
            accelerator=self.initial_acceleration(),
        )

    def initial_acceleration(self) -> AcceleratorState | None:
        """Accelerator state that has learnt nothing."""
        return None if self.accelerator is None else self.accelerator.initial()


@dataclass(frozen=True)
class Step:
    """Outcome of an E-step."""

    kind: str
    """As in `PassRecord`."""
    lower_bound: float
    change: float
    """To the bound before; infinite for the first, NaN where there is none."""
    seconds: float
    arithmetic: str
    records: tuple[PassRecord, ...] = ()
    """Iterations on samples that the step took besides."""

    @classmethod
    def of(cls, kind: str, result: EStepResult, bound: float = np.nan, change: float = np.nan) -> Step:
        """Step that an E-step was."""
        return cls(kind, bound, change, result.seconds, result.kernel.arithmetic)


class EMRun(NamedTuple, Generic[State]):
    """A start with all that it takes to advance it."""

    estimation: Estimation[State]
    settings: EMSettings[State]
    start: EMStart[State]

    @property
    def is_finished(self) -> bool:
        """Test whether the start asks for nothing more."""
        return self.start.is_finished(self.settings.max_iter)


def run_em(
    estep_pass: EStepPass,
    runs: Iterable[EMRun[Any]],
    on_step: Callable[[int, EMStart[Any], Step], EMStart[Any]] = lambda _, start, __: start,
    on_pass: Callable[[], Any] = lambda: None,
) -> list[EMStart[Any]]:
    """Take starts to their ends; those that are still running share every reading of the data.

    Parameters
    ----------
    estep_pass : EStepPass
    runs : iterable of EMRun
    on_step : callable
        Called with the number of a start, the start after a step, and the step; returns the start, which may be
        stopped there.
    on_pass : callable
        Called when all starts have taken what a reading of the data brought them.

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
    return EStepRequest(parameters, ARITHMETICS[-1] if start.precise else start.coarsest, threshold)


def advance(
    estimation: Estimation[State], settings: EMSettings[State], start: EMStart[State], result: EStepResult
) -> tuple[EMStart[State], Step]:
    """Make the M-step, and settle where to go from there.

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
    start, found = _counted(start), _compare(estimation, start, updated, result)
    if start.proposal and found.falls:
        return _reject(settings, start, result, found.bound, found.change)
    empty = estimation.empty(result.statistics)
    if empty and (reseeded := _reseed(estimation, settings, start, result, empty, collapsed=False)):
        return reseeded
    return _relocate(settings, *_accept(settings, start, result, found))


@dataclass(frozen=True)
class _Found(Generic[State]):
    """An M-step and its bound."""

    updated: State
    bound: float
    change: float
    """Of the bound, from the E-step that counted before."""
    rounding: float
    """Rounding error that the bound may have."""
    doubt: float
    """The same of either bound: a change that is no larger may be rounding."""

    @property
    def falls(self) -> bool:
        """Test whether the bound is lower than before, by more than rounding; true for NaN."""
        return not self.change >= -max(self.doubt, _ROUNDING * abs(self.bound))


def _compare(
    estimation: Estimation[State], start: EMStart[State], updated: State, result: EStepResult
) -> _Found[State]:
    bound = estimation.bound(result.statistics, updated)
    rounding = result.kernel.rounding(estimation.parameters(updated))
    return _Found(updated, bound, bound - start.compared_bound, rounding, max(rounding, start.rounding))


def _counted(start: EMStart[State]) -> EMStart[State]:
    """Count an E-step whose arithmetic was fine enough."""
    return replace(start, n_iter=start.n_iter + 1, precise=False)


def _refine(start: EMStart[State], result: EStepResult) -> tuple[EMStart[State], Step]:
    """Repeat the E-step in the finest arithmetic.

    The M-step led to components so much tighter than the last ones that this arithmetic could not see their width.
    """
    return replace(start, precise=True), Step.of("refined", result)


def _collapse(
    estimation: Estimation[State],
    settings: EMSettings[State],
    start: EMStart[State],
    result: EStepResult,
    components: tuple[int, ...],
) -> tuple[EMStart[State], Step]:
    """Go back from a proposal at which components collapsed, or replace the components, or end."""
    if start.proposal:
        return _reject(settings, start, result, -np.inf, -np.inf)
    if components and (reseeded := _reseed(estimation, settings, start, result, components, collapsed=True)):
        return reseeded
    return replace(start, collapsed=components), Step.of("em", result)


def _reject(
    settings: EMSettings[State], start: EMStart[State], result: EStepResult, bound: float, change: float
) -> tuple[EMStart[State], Step]:
    """Go back from a proposal to where the last M-step led."""
    learnt = start.accelerator
    if start.proposal and start.proposal.kind == "accelerated" and settings.accelerator is not None:
        learnt = settings.accelerator.reject(learnt)
    return replace(start, proposal=None, accelerator=learnt), Step.of("rejected", result, bound, change)


def _reseed(
    estimation: Estimation[State],
    settings: EMSettings[State],
    start: EMStart[State],
    result: EStepResult,
    lost: tuple[int, ...],
    *,
    collapsed: bool,
) -> tuple[EMStart[State], Step] | None:
    """Go on with other components in the place of the lost ones; None where that does not help any more."""
    if len(start.reseedings) >= RESEEDINGS:
        return None
    state = estimation.reseed(result.statistics, lost)
    if state is None:
        return None
    bound = estimation.bound(result.statistics, state)
    # What comes next has nothing to do with what was: the bound may be lower there, and is not compared.
    reseeded = replace(
        start,
        state=state,
        proposal=None,
        lower_bounds=(*start.lower_bounds, bound),
        compared_bound=-np.inf,
        rounding=0.0,
        reseedings=(*start.reseedings, Reseeding(start.n_iter, lost, collapsed)),
        accelerator=settings.initial_acceleration(),
    )
    return reseeded, Step.of("reseeded", result, bound, bound - start.compared_bound)


def _accept(
    settings: EMSettings[State], start: EMStart[State], result: EStepResult, found: _Found[State]
) -> tuple[EMStart[State], Step, EStepResult]:
    """Go on from where the M-step led, or from where the accelerator proposes."""
    settled, learnt, proposal = abs(found.change) < settings.tol, start.accelerator, None
    if settings.accelerator is not None:
        at, updated, bound = start.next_state, found.updated, found.bound
        proposed: Any  # accelerators know mixtures only, which then is what a state is
        learnt, proposed = settings.accelerator.propose(learnt, at, updated, bound)  # type: ignore[arg-type]
        settled = settings.accelerator.settled(learnt, found.change, settings.tol)
        proposal = None if proposed is None else Proposal(proposed, "accelerated")
    # With a tol of zero nothing could converge, and no arithmetic would be fine enough.
    refines = 0 < settings.tol < found.rounding and abs(found.change) <= found.doubt
    accepted = replace(
        start,
        state=found.updated,
        proposal=proposal,
        lower_bounds=(*start.lower_bounds, found.bound),
        compared_bound=found.bound,
        rounding=found.rounding,
        converged=found.doubt <= settings.tol and settled,
        coarsest=finer(result.kernel.arithmetic) if refines else start.coarsest,
        accelerator=learnt,
    )
    kind = start.proposal.kind if start.proposal else "em"
    return accepted, Step.of(kind, result, found.bound, found.change), result


def _relocate(
    settings: EMSettings[State], start: EMStart[State], step: Step, result: EStepResult
) -> tuple[EMStart[State], Step]:
    """Ask the relocator, once, for a place that is better than where the first plain step led."""
    if not start.relocates:
        return start, step
    start = replace(start, relocates=False)
    if start.is_finished(settings.max_iter) or settings.relocator is None:
        return start, step
    relocated = settings.relocator(result, start.state)
    step = replace(step, records=relocated.records)
    if relocated.state is None:
        return start, step
    proposal = Proposal(relocated.state, "moved")
    return replace(start, proposal=proposal, accelerator=settings.initial_acceleration()), step
