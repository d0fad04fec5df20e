"""Where to take the next E-step, from the last few.

EM's step is a gradient step: seen from the present mixture (`coordinates`), it is the gradient of the mean
log-likelihood to leading order (Xu & Jordan, Neural Computation 8, 1996; with the components known, Fisher's
information is the unit matrix there). Near a maximum its derivative is symmetric, and the eigenvalues of what a step
leaves over lie between 0 and 1. Where clusters overlap many are close to 1, and plain EM takes hundreds of small steps
along them. A quasi-Newton method learns those directions from the steps themselves. It needs nothing but what E-steps
bring anyway, and its own arithmetic is small beside a pass over the data.

`LimitedMemoryBFGS` is the quasi-Newton acceleration of Lange (Statistica Sinica 5, 1995) and Jamshidian & Jennrich
(J. R. Statist. Soc. B 59, 1997, their QN2), in the two-loop form of Nocedal (Math. Comp. 35, 1980). In the same
coordinates, Anderson mixing (Anderson 1965; Walker & Ni 2011; Henderson & Varadhan 2019), SQUAREM (Varadhan & Roland
2008) and over-relaxation, which make no use of the symmetry, took 1.3 to 2.3 times as many passes to the same
tolerance, the more the smaller it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from .. import names
from ..errors import IllDefinedCovarianceError
from .coordinates import displaced, displacement, shortened
from .mixture import MixtureParameters

Array = np.ndarray[Any, np.dtype[Any]]

_TINY = np.finfo(np.float64).tiny


class AcceleratorState:
    """What an accelerator has learnt from the steps of one start: a frozen record, checked when it is made."""


Learnt = TypeVar("Learnt", bound=AcceleratorState)


class Accelerator(ABC, Generic[Learnt]):
    """Proposes where to evaluate next; knows nothing of data.

    An accelerator holds hyper-parameters only. What it has learnt of a start is a value that its methods take and
    return. Whoever drives it takes the E-steps one after the other:

    * A start, and a mixture that was changed in any other way, begins with `initial`.
    * After an E-step that counts, and its M-step, `propose`.
    * If the bound at a proposal is lower than at the last E-step that counted, `reject`; the next E-step then is where
      the M-step led, and counts.
    """

    state_type: ClassVar[type[AcceleratorState]]
    """Record of what is learnt."""

    @abstractmethod
    def initial(self) -> Learnt:
        """State before the first step."""

    @abstractmethod
    def propose(
        self, state: Learnt, current: MixtureParameters, updated: MixtureParameters, bound: float
    ) -> tuple[Learnt, MixtureParameters | None]:
        """Learn from a step, and propose where to take the next E-step instead of at ``updated``.

        Parameters
        ----------
        state : AcceleratorState
        current : MixtureParameters
            Where the last E-step was.
        updated : MixtureParameters
            Where its M-step led.
        bound : float
            What it found, in nats per unit of weight.

        Returns
        -------
        state : AcceleratorState
        proposal : MixtureParameters or None
            A valid mixture; None for ``updated`` itself.
        """

    @abstractmethod
    def reject(self, state: Learnt) -> Learnt:
        """Learn that the bound was lower at the last proposal."""

    @abstractmethod
    def settled(self, state: Learnt, change: float, tol: float) -> bool:
        """Test whether the fit has converged, after `propose`.

        Parameters
        ----------
        state : AcceleratorState
        change : float
            Of the bound, from the E-step that counted before.
        tol : float
            In nats per unit of weight.
        """


def _nothing() -> Array:
    return np.empty(0)


@dataclass(frozen=True)
class BFGSState(AcceleratorState):
    """What `LimitedMemoryBFGS` has learnt: m pairs, each as long as the n coordinates of a mixture."""

    steps: Array = field(default_factory=_nothing)
    """s: from one E-step to the next, latest last, (m, n)."""
    falls: Array = field(default_factory=_nothing)
    """y: what EM's step lost on the way, (m, n)."""
    em_step: Array = field(default_factory=_nothing)
    """At the last E-step, (n,); empty where that was not finite."""
    planned: Array = field(default_factory=_nothing)
    """From the last E-step to the next, (n,)."""
    proposed: bool = False
    """Whether the next E-step is at a proposal."""
    trust_radius: float = 4.0
    """Longest step, in EM's steps."""
    at_radius: bool = False
    """Whether the proposal is as long as that."""
    rejected: int = 0
    """Proposals since one was accepted."""
    pause: int = 0
    """Plain steps until the next proposal."""
    em_gain: float = np.inf
    """Predicted for EM's step, in nats per unit of weight."""
    full_gain: float = np.inf
    """Predicted for all that is left."""

    def __post_init__(self) -> None:
        n = self.em_step.size
        if self.em_step.shape != self.planned.shape or self.em_step.ndim != 1:
            raise ValueError(
                f"steps of EM of shape {self.em_step.shape}, planned steps of shape {self.planned.shape}; expected (n,)"
            )
        pairs = self.steps.shape
        if pairs != self.falls.shape or not (pairs == (0,) or (len(pairs) == 2 and n in (0, pairs[1]))):
            raise ValueError(f"steps of shape {pairs} and falls of shape {self.falls.shape} beside {n} parameters")
        for name in ("steps", "falls", "em_step", "planned"):
            array = getattr(self, name)
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"{name} contains NaN, infinity, or no numbers in double precision")
        if not self.trust_radius > 0:
            raise ValueError(f"trust_radius is {self.trust_radius}; expected a positive number")
        for name in ("rejected", "pause"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected no negative number")


@dataclass(frozen=True)
class LimitedMemoryBFGS(Accelerator[BFGSState]):
    """Limited-memory BFGS with EM's step for the gradient.

    Where EM's step falls from f to f − y over a step s, the inverse H of the matrix that takes s to y is built of the
    last ten pairs, and the proposal is H f. Without pairs that is EM's step; directions that were not explored go as
    far as the latest of them.

    A step is no longer than some multiple of EM's, which doubles where it was a limit and the bound grew, and shrinks
    after a rejection; and no component moves further than its own standard deviation. Proposals that are rejected one
    after the other are followed by 0, 1, 3, 7, … plain steps, from the second on with all pairs forgotten: where the
    acceleration does not work, it costs next to nothing.

    It has converged when EM's step promises less than ``tol``, and besides either the bound has changed by less, or H
    promises less for all that is left, ½ f · H f. One small change is not enough: it may have been a bad step.

    Parameters
    ----------
    smallest_variance : float
        No proposal has a smaller one, in squared units of the data.

    Notes
    -----
    Pairs with s · y ≤ 0, over which the log-likelihood is not concave, are left out, and H stays positive definite.
    With K components and D features a pair takes 16 K (1 + D + D (D + 1) / 2) bytes at most.
    """

    smallest_variance: float = 0.0

    state_type: ClassVar[type[AcceleratorState]] = BFGSState

    _PAIRS: ClassVar = 10
    _LEAST_CURVATURE: ClassVar = 1e-6  # s · y / s · s: less is noise
    _GROWTH: ClassVar = 2.0
    _SHRINKAGE: ClassVar = 0.25
    _LEAST_RADIUS: ClassVar = 1.0
    _LONGEST: ClassVar = 1.0  # for one component, see `shortened`
    _LONGEST_PAUSE: ClassVar = 63
    _RIDGE_ROUNDING: ClassVar = 0.9  # a variance of exactly the smallest value comes out of products of factors

    def initial(self) -> BFGSState:
        return BFGSState()

    def propose(
        self, state: BFGSState, current: MixtureParameters, updated: MixtureParameters, bound: float
    ) -> tuple[BFGSState, MixtureParameters | None]:
        em_step, paused = displacement(current, updated), state.pause > 0
        state = self._learn(state, em_step)
        known = bool(np.isfinite(em_step).all())  # else the next step has nothing to be compared with
        plain: dict[str, Any] = {
            "em_step": em_step if known else _nothing(),
            "planned": em_step if known else _nothing(),
            "em_gain": float(em_step @ em_step) if known else np.inf,
            "full_gain": np.inf,
            "proposed": False,
            "at_radius": False,
            "pause": state.pause - paused,
        }
        if not (len(state.steps) and known):
            return replace(state, **plain), None
        direction = ascent_direction(state.steps, state.falls, em_step)
        plain["full_gain"] = 0.5 * float(em_step @ direction)
        if paused:
            return replace(state, **plain), None
        longest = state.trust_radius * float(np.linalg.norm(em_step))
        length = float(np.linalg.norm(direction))
        step = shortened(current, direction * (longest / max(length, longest, _TINY)), self._LONGEST)
        proposal = displaced(current, step)
        if not self._wide_enough(proposal):
            return replace(state, **plain), None
        return replace(state, **(plain | {"planned": step, "proposed": True, "at_radius": length > longest})), proposal

    def reject(self, state: BFGSState) -> BFGSState:
        rejected = state.rejected + 1
        forgets = rejected > 1
        return replace(
            state,
            steps=_nothing() if forgets else state.steps,
            falls=_nothing() if forgets else state.falls,
            planned=state.em_step,
            proposed=False,
            trust_radius=max(state.trust_radius * self._SHRINKAGE, self._LEAST_RADIUS),
            rejected=rejected,
            pause=min(2 ** (rejected - 1) - 1, self._LONGEST_PAUSE),
        )

    def settled(self, state: BFGSState, change: float, tol: float) -> bool:
        return state.em_gain < tol and (abs(change) < tol or state.full_gain < tol)

    def _learn(self, state: BFGSState, em_step: Array) -> BFGSState:
        """Learn from the step since the last E-step, where EM's step was another."""
        learnt: dict[str, Any] = {}
        if state.proposed:
            learnt["rejected"] = 0
            if state.at_radius:
                learnt["trust_radius"] = state.trust_radius * self._GROWTH
        step = state.planned
        if len(step) and step @ (fall := state.em_step - em_step) > self._LEAST_CURVATURE * (step @ step):
            known = len(state.steps) > 0
            learnt["steps"] = np.vstack([state.steps, step])[-self._PAIRS :] if known else step[None]
            learnt["falls"] = np.vstack([state.falls, fall])[-self._PAIRS :] if known else fall[None]
        return replace(state, **learnt) if learnt else state

    def _wide_enough(self, proposal: MixtureParameters) -> bool:
        """Test whether an M-step might lead to these covariances; false where anything is not finite."""
        structure, narrowest = proposal.structure, self._RIDGE_ROUNDING * self.smallest_variance
        try:
            structure.precisions_cholesky(structure.add_ridge(proposal.covariances.copy(), -narrowest))
        except IllDefinedCovarianceError:
            return False
        return bool(np.isfinite(proposal.means).all() and np.isfinite(proposal.weights).all())


def ascent_direction(steps: Array, falls: Array, em_step: Array) -> Array:
    """H f: the two-loop recursion (Nocedal 1980; Nocedal & Wright 2006, algorithm 7.4).

    Parameters
    ----------
    steps, falls : array of shape (m, n)
        Pairs s and y, the latest last.
    em_step : array of shape (n,)
        f.
    """
    curvatures = np.einsum("mn,mn->m", steps, falls)
    shares = np.empty(len(steps))
    direction = em_step.copy()
    for i in reversed(range(len(steps))):
        shares[i] = steps[i] @ direction / curvatures[i]
        direction -= shares[i] * falls[i]
    direction *= max(1.0, curvatures[-1] / (falls[-1] @ falls[-1]))
    for i in range(len(steps)):
        direction += (shares[i] - falls[i] @ direction / curvatures[i]) * steps[i]
    return direction


ACCELERATIONS: dict[str, type[LimitedMemoryBFGS]] = dict(zip(names.ACCELERATIONS, [LimitedMemoryBFGS], strict=True))
"""Accelerations by name; each is made for the smallest variance that its proposals may have."""
