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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from .. import names
from ..errors import IllDefinedCovarianceError
from .coordinates import displaced, displacement, shortened
from .mixture import MixtureParameters

Array = np.ndarray[Any, np.dtype[Any]]

_TINY = np.finfo(np.float64).tiny


class Accelerator(ABC):
    """Proposes where to evaluate next; knows nothing of data. One for each start.

    Whoever drives it takes the E-steps one after the other:

    * After an E-step that counts, and its M-step, `propose`.
    * If the bound at a proposal is lower than at the last E-step that counted, `reject`; the next E-step then is where
      the M-step led, and counts.

    A mixture that was changed in any other way in between needs a new one.
    """

    @abstractmethod
    def propose(self, current: MixtureParameters, updated: MixtureParameters, bound: float) -> MixtureParameters | None:
        """Where to take the next E-step instead of at ``updated``; None: there.

        Parameters
        ----------
        current : MixtureParameters
            Where the last E-step was.
        updated : MixtureParameters
            Where its M-step led.
        bound : float
            What it found, in nats per unit of weight.

        Returns
        -------
        MixtureParameters or None
            A valid mixture.
        """

    @abstractmethod
    def reject(self) -> None:
        """The bound was lower at the last proposal."""

    @abstractmethod
    def settled(self, change: float, tol: float) -> bool:
        """Whether the fit has converged, to be asked after `propose`.

        Parameters
        ----------
        change : float
            Of the bound, from the E-step that counted before.
        tol : float
            In nats per unit of weight.
        """

    @abstractmethod
    def as_arrays(self) -> dict[str, Array]:
        """All that it has learnt: with these arrays another one goes on with the same bits."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Inverse of `as_arrays`.

        Raises
        ------
        ValueError
            If they cannot be what it made.
        """


def _nothing() -> Array:
    return np.empty(0)


@dataclass
class _State:
    """What `LimitedMemoryBFGS` remembers. Arrays are replaced, never written to."""

    smallest_variance: float = 0.0
    steps: Array = field(default_factory=_nothing)
    """s: from one E-step to the next, latest last, (m, n)."""
    falls: Array = field(default_factory=_nothing)
    """y: what EM's step lost on the way, (m, n)."""
    em_step: Array = field(default_factory=_nothing)
    """At the last E-step, (n,)."""
    planned: Array = field(default_factory=_nothing)
    """From the last E-step to the next, (n,)."""
    proposed: bool = False
    """Whether the next E-step is at a proposal."""
    reach: float = 4.0
    """Longest step, in EM's steps."""
    reached: bool = False
    """Whether the proposal is as long as that."""
    rejected: int = 0
    """Proposals since one was accepted."""
    pause: int = 0
    """Plain steps until the next proposal."""
    em_gain: float = np.inf
    """Predicted for EM's step, in nats per unit of weight."""
    full_gain: float = np.inf
    """Predicted for all that is left."""


class LimitedMemoryBFGS(Accelerator):
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

    Notes
    -----
    Pairs with s · y ≤ 0, over which the log-likelihood is not concave, are left out, and H stays positive definite.
    With K components and D features a pair takes 16 K (1 + D + D (D + 1) / 2) bytes at most.
    """

    _PAIRS = 10
    _LEAST_CURVATURE = 1e-6  # s · y / s · s: less is noise
    _GROWTH, _SHRINKAGE, _LEAST_REACH = 2.0, 0.25, 1.0
    _LONGEST = 1.0  # for one component, see `shortened`
    _LONGEST_PAUSE = 63
    _RIDGE_ROUNDING = 0.9  # a variance of exactly the smallest value comes out of products of factors

    def __init__(self, smallest_variance: float = 0.0) -> None:
        self._state = _State(smallest_variance)

    def propose(self, current: MixtureParameters, updated: MixtureParameters, bound: float) -> MixtureParameters | None:
        state, em_step = self._state, displacement(current, updated)
        self._learn(em_step)
        state.em_step = state.planned = em_step
        state.em_gain, state.full_gain = float(em_step @ em_step), np.inf
        state.proposed = state.reached = False
        paused = state.pause > 0
        state.pause -= paused
        if not len(state.steps):
            return None
        direction = self._ascent(em_step)
        state.full_gain = 0.5 * float(em_step @ direction)
        if paused:
            return None
        longest = state.reach * float(np.linalg.norm(em_step))
        length = float(np.linalg.norm(direction))
        step = shortened(current, direction * (longest / max(length, longest, _TINY)), self._LONGEST)
        proposal = displaced(current, step)
        if not self._wide_enough(proposal):
            return None
        state.planned, state.proposed, state.reached = step, True, length > longest
        return proposal

    def reject(self) -> None:
        state = self._state
        state.planned, state.proposed = state.em_step, False
        state.reach = max(state.reach * self._SHRINKAGE, self._LEAST_REACH)
        state.rejected += 1
        state.pause = min(2 ** (state.rejected - 1) - 1, self._LONGEST_PAUSE)
        if state.rejected > 1:
            state.steps, state.falls = _nothing(), _nothing()

    def settled(self, change: float, tol: float) -> bool:
        state = self._state
        return state.em_gain < tol and (abs(change) < tol or state.full_gain < tol)

    def as_arrays(self) -> dict[str, Array]:
        return {name: np.asarray(value) for name, value in vars(self._state).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        made = cls()
        for name, value in vars(made._state).items():
            given = np.array(arrays[name])
            setattr(made._state, name, given if isinstance(value, np.ndarray) else type(value)(given.item()))
        made._check_shapes()
        return made

    def _check_shapes(self) -> None:
        state = self._state
        steps, n = state.steps, state.em_step.size
        if not (steps.shape == state.falls.shape and steps.shape in ((0,), (len(steps), n))):
            raise ValueError(
                f"steps of shape {steps.shape} and falls of shape {state.falls.shape} beside {n} parameters"
            )
        if state.em_step.shape != state.planned.shape or state.em_step.ndim != 1:
            raise ValueError(f"steps of EM of shape {state.em_step.shape}, planned ones of shape {state.planned.shape}")
        if not all(np.isfinite(array).all() for array in (steps, state.falls, state.em_step, state.planned)):
            raise ValueError("steps that are not finite")

    def _learn(self, em_step: Array) -> None:
        """What the step since the last E-step says."""
        state = self._state
        if state.proposed:
            state.rejected = 0
            if state.reached:
                state.reach *= self._GROWTH
        if not len(state.planned):
            return
        step, fall = state.planned, state.em_step - em_step
        if not step @ fall > self._LEAST_CURVATURE * (step @ step):
            return
        if not len(state.steps):
            state.steps, state.falls = step[None], fall[None]
            return
        state.steps = np.vstack([state.steps, step])[-self._PAIRS :]
        state.falls = np.vstack([state.falls, fall])[-self._PAIRS :]

    def _ascent(self, em_step: Array) -> Array:
        """H f: the two-loop recursion (Nocedal 1980; Nocedal & Wright 2006, algorithm 7.4)."""
        steps, falls = self._state.steps, self._state.falls
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

    def _wide_enough(self, proposal: MixtureParameters) -> bool:
        """Whether covariances are what an M-step might lead to; false where anything is not finite."""
        structure, narrowest = proposal.structure, self._RIDGE_ROUNDING * self._state.smallest_variance
        try:
            structure.precisions_cholesky(structure.add_ridge(proposal.covariances.copy(), -narrowest))
        except IllDefinedCovarianceError:
            return False
        return bool(np.isfinite(proposal.means).all() and np.isfinite(proposal.weights).all())


ACCELERATIONS: dict[str, type[LimitedMemoryBFGS]] = dict(zip(names.ACCELERATIONS, [LimitedMemoryBFGS], strict=True))
"""Accelerations by name; each makes a new one for the smallest variance that its proposals may have."""
