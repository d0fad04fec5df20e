"""Expectation-maximisation (Dempster, Laird & Rubin 1977): the loop, written once, and when it stops.

What is maximised is an `Estimation`: maximum likelihood, or the bound of variational inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np

from ..core.acceleration import Accelerator
from ..core.estimation import Estimation, State
from ..core.kernels import ARITHMETICS, finer
from ..core.mixture import MixtureParameters
from ..errors import IllDefinedCovarianceError
from .sweep import Evaluation, Request, Sweep
from .worst import Watch

Array = np.ndarray[Any, np.dtype[Any]]

#: Times that components of one start may begin anew.
RESEEDINGS = 3

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


@dataclass(frozen=True)
class Step:
    """What became of an E-step."""

    kind: str
    """As in `PassRecord`."""
    lower_bound: float
    change: float
    """To the bound before; infinite for the first, NaN where there is none."""
    seconds: float
    arithmetic: str


@dataclass(frozen=True)
class AscentSnapshot(Generic[State]):
    """All that an ascent needs to go on from between two E-steps, with the same bits."""

    state: State
    next_state: State
    """Where it wants the next E-step; the same object as ``state`` where that is there."""
    lower_bounds: tuple[float, ...]
    last_bound: float
    """That the next one is compared with."""
    last_noise: float
    """Rounding error that it may have."""
    n_iter: int
    converged: bool
    stopped: bool
    failure: tuple[int, ...] | None
    """Components that collapsed."""
    reseedings: tuple[Reseeding, ...]
    proposal: str | None
    precise: bool
    """True where the next E-step repeats the last one in the finest arithmetic."""
    coarsest: str
    """Arithmetic that no E-step is coarser than any more."""
    relocates: bool
    """Whether the relocator is still to be asked."""
    accelerator: Mapping[str, Array] | None
    """What it has learnt."""


class Relocator(Protocol[State]):
    """Looks, once, at the rows that an E-step explained worst, and may know a better place to go on from."""

    def watch(self, parameters: MixtureParameters) -> Watch:
        """What it wants to see of the rows, if these are the parameters of the E-step."""

    def __call__(self, evaluation: Evaluation, updated: State) -> State | None:
        """Where to take the next E-step instead of at ``updated``, which the M-step made of ``evaluation``."""


class Ascent(Generic[State]):
    """One start on its way up. It says where it wants the next E-step, and takes what was found there.

    Whoever brings the two together decides how many ascents share a reading of the data.

    A component that collapses or that no row belongs to any more begins anew (`Estimation.reseed`), at most
    `RESEEDINGS` times. After that, or where it does not help, a collapse is the end, and what is empty stays empty.

    A change of the bound that may be rounding decides nothing. Where the arithmetic of an E-step may have moved the
    bound by more than ``tol`` (`Kernel.rounding`), the ascent has not converged; and once the bound changes by no more
    than that, E-steps are taken in the next finer arithmetic.

    Parameters
    ----------
    estimation : Estimation
    state : State
        Where it begins.
    tol : float
        It has converged when the bound changes by less, in nats per unit of weight.
    max_iter : int
        Largest number of E-steps, those that were rejected included.
    lower_bound : float
        Of an earlier fit that is continued.
    accelerator : callable, optional
        Makes an `Accelerator`, anew where the ascent had to start over. None: plain EM.
    relocator : Relocator, optional
        Asked after the first plain step. Its proposal counts if the bound is higher there.

    Attributes
    ----------
    state : State
        The best so far, after its M-step.
    lower_bounds : list of float
        One for each E-step that was not rejected; never falling but for rounding, and where a component was replaced.
    n_iter : int
    converged : bool
    stopped : bool
        It was given up.
    failure : IllDefinedCovarianceError or None
        Why it cannot go on.
    reseedings : list of Reseeding
    """

    def __init__(
        self,
        estimation: Estimation[State],
        state: State,
        *,
        tol: float,
        max_iter: int,
        lower_bound: float = -np.inf,
        accelerator: Callable[[], Accelerator] | None = None,
        relocator: Relocator[State] | None = None,
    ) -> None:
        self.estimation, self.state = estimation, state
        self.lower_bounds: list[float] = []
        self.n_iter = 0
        self.converged = self.stopped = False
        self.failure: IllDefinedCovarianceError | None = None
        self.reseedings: list[Reseeding] = []
        self._tol, self._max_iter = tol, max_iter
        self._last, self._last_noise = lower_bound, 0.0
        self._make_accelerator = accelerator
        self._accelerator = self._new_accelerator()
        self._relocator = relocator
        self._next = state
        self._proposal: str | None = None
        """Kind of step that the next one is if it counts, where it is not a plain one."""
        self._precise, self._coarsest = False, ARITHMETICS[0]

    @property
    def finished(self) -> bool:
        """Whether it asks for nothing more."""
        return self.converged or self.stopped or self.failure is not None or self.n_iter >= self._max_iter

    @property
    def lower_bound(self) -> float:
        """Of the last E-step that counted; −∞ where there was none."""
        return self.lower_bounds[-1] if self.lower_bounds else -np.inf

    @property
    def request(self) -> Request:
        """The E-step that it waits for."""
        parameters = self.estimation.parameters(self._next)
        watch = None if self._relocator is None else self._relocator.watch(parameters)
        return Request(parameters, ARITHMETICS[-1] if self._precise else self._coarsest, watch)

    def stop(self) -> None:
        """Ask for nothing more."""
        self.stopped = True

    def snapshot(self) -> AscentSnapshot[State]:
        """Where it is now."""
        return AscentSnapshot(
            self.state,
            self._next,
            tuple(self.lower_bounds),
            self._last,
            self._last_noise,
            self.n_iter,
            self.converged,
            self.stopped,
            None if self.failure is None else self.failure.components,
            tuple(self.reseedings),
            self._proposal,
            self._precise,
            self._coarsest,
            self._relocator is not None,
            None if self._accelerator is None else self._accelerator.as_arrays(),
        )

    def restore(self, snapshot: AscentSnapshot[State]) -> None:
        """Go on from where another one was that was made with the same arguments."""
        self.state, self._next = snapshot.state, snapshot.next_state
        self.lower_bounds = list(snapshot.lower_bounds)
        self._last, self._last_noise = snapshot.last_bound, snapshot.last_noise
        self.n_iter, self.converged, self.stopped = snapshot.n_iter, snapshot.converged, snapshot.stopped
        self.failure = None if snapshot.failure is None else IllDefinedCovarianceError(snapshot.failure)
        self.reseedings = list(snapshot.reseedings)
        self._proposal = snapshot.proposal
        self._precise, self._coarsest = snapshot.precise, snapshot.coarsest
        if not snapshot.relocates:
            self._relocator = None
        if snapshot.accelerator is not None:
            assert self._accelerator is not None
            self._accelerator = self._accelerator.from_arrays(snapshot.accelerator)

    def take(self, evaluation: Evaluation) -> Step:
        """Make the M-step, and settle where to go from there."""
        try:
            updated = self.estimation.update(evaluation.statistics)
            fine = evaluation.finest or evaluation.kernel.resolves(self.estimation.parameters(updated))
        except IllDefinedCovarianceError as error:
            if evaluation.finest:
                return self._collapsed(error, evaluation)
            fine = False
        # The M-step led to components so much tighter than the last ones that this arithmetic could not see their
        # width.
        self._precise = not fine
        if not fine:
            return _step("refined", np.nan, np.nan, evaluation)
        self.n_iter += 1
        bound = self.estimation.bound(evaluation.statistics, updated)
        change = bound - self._last
        noise = evaluation.kernel.rounding(self.estimation.parameters(updated))
        doubt = max(noise, self._last_noise)
        if self._proposal and not change >= -max(doubt, _ROUNDING * abs(bound)):
            return self._reject(bound, change, evaluation)
        empty = self.estimation.empty(evaluation.statistics)
        if empty and (step := self._reseed(empty, evaluation, collapsed=False)):
            return step
        kind = self._proposal or "em"
        self._accept(updated, bound, change, doubt)
        self._last_noise = noise
        if 0 < self._tol < noise and abs(change) <= doubt:  # with a tol of zero nothing could converge
            self._coarsest = finer(evaluation.kernel.arithmetic)
        self._relocate(evaluation)
        return _step(kind, bound, change, evaluation)

    def _new_accelerator(self) -> Accelerator | None:
        return self._make_accelerator() if self._make_accelerator else None

    def _accept(self, updated: State, bound: float, change: float, doubt: float) -> None:
        at, self.state, self._last = self._next, updated, bound
        self.lower_bounds.append(bound)
        self._next, self._proposal = updated, None
        if self._accelerator is None:
            self.converged = doubt <= self._tol and abs(change) < self._tol
            return
        proposal: Any = self._accelerator.propose(at, updated, bound)  # type: ignore[arg-type]
        self.converged = doubt <= self._tol and self._accelerator.settled(change, self._tol)
        if proposal is not None:
            self._next, self._proposal = proposal, "accelerated"

    def _relocate(self, evaluation: Evaluation) -> None:
        if self._relocator is None:
            return
        relocator, self._relocator = self._relocator, None
        elsewhere = None if self.finished else relocator(evaluation, self.state)
        if elsewhere is not None:
            self._next, self._proposal = elsewhere, "moved"
            self._accelerator = self._new_accelerator()

    def _reject(self, bound: float, change: float, evaluation: Evaluation) -> Step:
        if self._proposal == "accelerated":
            assert self._accelerator is not None
            self._accelerator.reject()
        self._next, self._proposal = self.state, None
        return _step("rejected", bound, change, evaluation)

    def _collapsed(self, error: IllDefinedCovarianceError, evaluation: Evaluation) -> Step:
        self.n_iter += 1
        self._precise = False
        if self._proposal:
            return self._reject(-np.inf, -np.inf, evaluation)
        if error.components and (step := self._reseed(error.components, evaluation, collapsed=True)):
            return step
        self.failure = error
        return _step("em", np.nan, np.nan, evaluation)

    def _reseed(self, lost: tuple[int, ...], evaluation: Evaluation, *, collapsed: bool) -> Step | None:
        """Go on with other components in the place of the lost ones, if that helps."""
        if len(self.reseedings) >= RESEEDINGS:
            return None
        state = self.estimation.reseed(evaluation.statistics, lost)
        if state is None:
            return None
        self.reseedings.append(Reseeding(self.n_iter, lost, collapsed))
        bound = self.estimation.bound(evaluation.statistics, state)
        change = bound - self._last
        self.lower_bounds.append(bound)
        self.state = self._next = state
        self._proposal = None
        # What comes next has nothing to do with what was: the bound may be lower there, and is not compared.
        self._last, self._last_noise, self._accelerator = -np.inf, 0.0, self._new_accelerator()
        return _step("reseeded", bound, change, evaluation)


def _step(kind: str, bound: float, change: float, evaluation: Evaluation) -> Step:
    return Step(kind, bound, change, evaluation.seconds, evaluation.kernel.arithmetic)


def climb(
    sweep: Sweep,
    ascents: Sequence[Ascent[Any]],
    on_step: Callable[[int, Step], Any] = lambda *_: None,
    on_sweep: Callable[[], Any] = lambda: None,
) -> None:
    """Take ascents to their ends; those that are still running share every reading of the data.

    Parameters
    ----------
    sweep : Sweep
    ascents : sequence of Ascent
    on_step : callable
        Called with the number of an ascent and each of its steps.
    on_sweep : callable
        Called when all have taken what a reading of the data brought them.
    """
    while running := [number for number, ascent in enumerate(ascents) if not ascent.finished]:
        evaluations = sweep([ascents[number].request for number in running])
        for number, evaluation in zip(running, evaluations, strict=True):
            on_step(number, ascents[number].take(evaluation))
        on_sweep()
