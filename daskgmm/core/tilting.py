"""Acceleration by a sample in memory: the mixture of the next E-step is near the maximum of a tilted likelihood.

The likelihood of a sample has nearly the shape of the likelihood of all data, but its slope differs. After an E-step
over all data at a mixture θ₀, the slope of both is known there, and the tilted likelihood

    L̃(θ) = L_sample(θ) + ⟨S_all(θ₀) − S_sample(θ₀), η(θ)⟩

has the slope of the likelihood of all data at θ₀ (Jordan, Lee & Yang, J. Am. Stat. Assoc. 114, 2019). S are the
sufficient statistics, scaled to the weight of all data, and η the natural parameters of the mixture with known
components. EM on the sample climbs L̃ if each E-step adds the difference S_all(θ₀) − S_sample(θ₀) to its statistics.

Sampling errors of the curvature may lead too far where the likelihood is flat. The climb therefore adds ρ S_all(θ₀),
ρ times EM's lower bound of the likelihood of all data: ρ = 0 trusts the sample, and ρ → ∞ leads to EM's own step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from .acceleration import (
    Accelerator,
    AcceleratorState,
    BFGSState,
    EMStep,
    LimitedMemoryBFGS,
    Proposed,
    SampleWork,
    no_numbers,
)
from .coordinates import displaced, displacement
from .mixture import MixtureParameters

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Climb:
    """Outcome of a climb of the tilted likelihood."""

    mixture: MixtureParameters
    gain: float
    """Gain of the tilted likelihood, in nats per unit of weight."""
    left: float
    """Predicted gain that is left up to the maximum of the tilted likelihood."""
    converged: bool
    learnt: BFGSState
    """Knowledge of the curvature of the sample's likelihood, for the next climb."""
    work: SampleWork


class TiltedLikelihood(Protocol):
    """Likelihood of a sample, to be tilted by the statistics of all data."""

    @property
    def most_iterations(self) -> int:
        """EM steps on the sample that a start may take in all."""

    def climb(self, step: EMStep, damping: float, learnt: BFGSState, most: int) -> Climb:
        """Climb the tilted likelihood from the mixture of an E-step over all data.

        Parameters
        ----------
        step : EMStep
        damping : float
            Factor ρ of EM's lower bound.
        learnt : BFGSState
            Knowledge from the last climb.
        most : int
            Largest number of EM steps on the sample.
        """


@dataclass(frozen=True)
class TiltedState(AcceleratorState):
    """State of `TiltedBFGS`."""

    bfgs: BFGSState = field(default_factory=BFGSState)
    """State of the quasi-Newton method on all data."""
    sampled: BFGSState = field(default_factory=BFGSState)
    """State of the quasi-Newton method on the sample, for the next climb."""
    climbed: Array = field(default_factory=no_numbers)
    """Step to the end of a climb, (n,), where the next E-step is; empty if the next E-step is elsewhere."""
    other: Array = field(default_factory=no_numbers)
    """Proposal of the quasi-Newton method, relative to the result of the M-step, (n,); empty for that result."""
    damping: float = 0.1
    """Factor ρ."""
    predicted: float = 0.0
    """Gain of the last climb, in nats per unit of weight."""
    left: float = np.inf
    """Predicted gain up to the maximum, in nats per unit of weight; infinite if no climb has found out."""
    rejected: int = 0
    """Rejected ends of climbs since the last accepted one."""
    pause: int = 0
    """Steps of the quasi-Newton method until the next climb."""
    n_iter: int = 0
    """EM steps on the sample so far."""

    @property
    def gain_left(self) -> float:
        return self.left if self.left < np.inf else self.bfgs.gain_left

    def check_size(self, n_coordinates: int) -> None:
        self.bfgs.check_size(n_coordinates)
        self.sampled.check_size(n_coordinates)

    def __post_init__(self) -> None:
        for name in ("climbed", "other"):
            array = getattr(self, name)
            if array.ndim != 1 or array.size not in (0, self.bfgs.em_step.size):
                raise ValueError(f"{name} has shape {array.shape}; expected (0,) or {self.bfgs.em_step.shape}")
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"{name} contains NaN or infinity, or is not in double precision (float64)")
        if not 0 <= self.damping < np.inf:
            raise ValueError(f"damping is {self.damping}; expected a finite number, not negative")
        if np.isnan(self.predicted) or np.isnan(self.left):
            raise ValueError(f"predicted is {self.predicted}, left is {self.left}; expected numbers")
        for name in ("rejected", "pause", "n_iter"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected no negative number")


@dataclass(frozen=True)
class TiltedBFGS(Accelerator[TiltedState]):
    """Climbs of the tilted likelihood of a sample, beside limited-memory BFGS on all data.

    The next E-step is at the end of a climb. If the bound falls there, it is at the proposal of the quasi-Newton
    method, the damping grows, and successive rejections are followed by 0, 1, 3, 7, … proposals of the quasi-Newton
    method, which learns from all steps. The damping shrinks while the climbs predict the gains well.

    Parameters
    ----------
    bfgs : LimitedMemoryBFGS
    likelihood : TiltedLikelihood, optional
        None for fits without a sample, which have the steps of ``bfgs``.
    """

    bfgs: LimitedMemoryBFGS
    likelihood: TiltedLikelihood | None = None

    state_type: ClassVar[type[AcceleratorState]] = TiltedState

    # Ratios of the gain to its prediction beyond which the damping grows or shrinks, and by which factor.
    _POOR: ClassVar = 0.25
    _GOOD: ClassVar = 0.75
    _FACTOR: ClassVar = 4.0
    _LEAST_DAMPING: ClassVar = 1e-3
    _DAMPING: ClassVar = 0.1  # after a step that needed damping and had none
    _MOST_DAMPING: ClassVar = 1e3
    _LONGEST_PAUSE: ClassVar = 63
    _WORTH: ClassVar = 30.0  # tolerances that EM's first step has to promise to be worth a climb
    _FEWEST_ITERATIONS: ClassVar = 3

    def initial(self) -> TiltedState:
        return TiltedState(self.bfgs.initial())

    def propose(self, state: TiltedState, step: EMStep) -> Proposed[TiltedState]:
        bfgs, paused = state.bfgs, state.pause > 0
        if state.climbed.size:
            bfgs = replace(bfgs, planned=state.climbed, proposed=False, at_radius=False)
            state = self._judged(state, step.change)
        quasi_newton = self.bfgs.propose(bfgs, step)
        state = replace(
            state,
            bfgs=quasi_newton.state,
            climbed=no_numbers(),
            other=no_numbers(),
            left=np.inf,
            pause=state.pause - paused,
        )
        if self.likelihood is None or paused or not self._is_worth(state, step):
            return Proposed(state, quasi_newton.mixture)
        most = self.likelihood.most_iterations - state.n_iter
        climb = self.likelihood.climb(step, state.damping, state.sampled, most)
        state = replace(state, sampled=climb.learnt, n_iter=state.n_iter + climb.work.n_iter, predicted=climb.gain)
        if climb.converged:
            state = replace(state, left=climb.gain + climb.left)
        climbed = displacement(step.current, climb.mixture)
        if not (climb.gain > 0 and np.isfinite(climbed).all()):
            state = state if climb.converged else self._damped(state)
            return Proposed(state, quasi_newton.mixture, climb.work)
        other = no_numbers()
        if quasi_newton.mixture is not None:
            apart = displacement(step.updated, quasi_newton.mixture)
            other = apart if np.isfinite(apart).all() else other
        return Proposed(replace(state, climbed=climbed, other=other), climb.mixture, climb.work)

    def reject(self, state: TiltedState, updated: MixtureParameters) -> tuple[TiltedState, MixtureParameters | None]:
        if not state.climbed.size:
            bfgs, proposal = self.bfgs.reject(state.bfgs, updated)
            return replace(state, bfgs=bfgs), proposal
        proposal = displaced(updated, state.other) if state.other.size else None
        return self._damped(replace(state, climbed=no_numbers(), other=no_numbers())), proposal

    def settled(self, state: TiltedState, change: float, tol: float) -> bool:
        if state.left < np.inf:
            return state.bfgs.em_gain < tol and state.left < tol
        return self.bfgs.settled(state.bfgs, change, tol)

    def _is_worth(self, state: TiltedState, step: EMStep) -> bool:
        """Test whether a climb may save a pass, and steps on the sample are left."""
        assert self.likelihood is not None
        if state.n_iter + self._FEWEST_ITERATIONS > self.likelihood.most_iterations:
            return False
        if not (state.bfgs.em_step.size and (step.current.weights > 0).all()):
            return False
        if step.is_last and state.bfgs.em_gain >= step.tol:
            return False  # the climb could only show that the start has converged, and it has not
        if step.change == np.inf:
            return state.bfgs.em_gain >= self._WORTH * step.tol
        return not self.bfgs.settled(state.bfgs, step.change, step.tol)

    def _judged(self, state: TiltedState, change: float) -> TiltedState:
        """Adapt the damping after a climb whose end was accepted."""
        damping = state.damping
        if change < self._POOR * state.predicted:
            damping = self._larger(damping)
        elif change > self._GOOD * state.predicted:
            damping = damping / self._FACTOR if damping > self._LEAST_DAMPING else 0.0
        return replace(state, damping=damping, rejected=0)

    def _damped(self, state: TiltedState) -> TiltedState:
        """Increase the damping, and pause, after a climb that led nowhere."""
        pause = min(2**state.rejected - 1, self._LONGEST_PAUSE)
        return replace(state, damping=self._larger(state.damping), rejected=state.rejected + 1, pause=pause)

    def _larger(self, damping: float) -> float:
        return min(max(damping * self._FACTOR, self._DAMPING), self._MOST_DAMPING)
