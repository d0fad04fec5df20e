"""Quasi-Newton acceleration of EM: the mixture of the next E-step, from the last few steps.

EM's step is a gradient step: in the coordinates of the present mixture (`coordinates`), the step is the gradient of the
mean log-likelihood to leading order (Xu & Jordan, Neural Computation 8, 1996; with the components known, Fisher's
information is the unit matrix there). Near a maximum the derivative of the EM map is symmetric, and its eigenvalues,
the rates of convergence, lie between 0 and 1. Where clusters overlap, many rates are close to 1, and plain EM takes
hundreds of small steps along their eigenvectors. A quasi-Newton method learns those directions from the steps
themselves. The method needs no E-steps of its own, and its arithmetic is small beside a pass over the data.

`LimitedMemoryBFGS` is the quasi-Newton acceleration of Lange (Statistica Sinica 5, 1995) and Jamshidian & Jennrich
(J. R. Statist. Soc. B 59, 1997, their QN2), in the two-loop form of Nocedal (Math. Comp. 35, 1980). In the same
coordinates, Anderson mixing (Anderson 1965; Walker & Ni 2011; Henderson & Varadhan 2019), SQUAREM (Varadhan & Roland
2008) and over-relaxation, which make no use of the symmetry, took 1.3 to 2.3 times as many passes to the same
tolerance; the ratio grew as the tolerance shrank.
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
from .statistics import SufficientStatistics

Array = np.ndarray[Any, np.dtype[Any]]

_TINY = np.finfo(np.float64).tiny


class AcceleratorState:
    """Knowledge of an accelerator from the steps of one start: a frozen record that validates its own fields."""

    @property
    def gain_left(self) -> float:
        """Predicted gain up to the maximum, in nats per unit of weight; infinite if it is unknown."""
        return np.inf

    def check_size(self, n_coordinates: int) -> None:
        """Raise ValueError if vectors are not those of mixtures with that many coordinates, see `coordinates`."""


Learnt = TypeVar("Learnt", bound=AcceleratorState)


@dataclass(frozen=True)
class EMStep:
    """An E-step that counts, and the M-step that followed."""

    current: MixtureParameters
    """Mixture of the E-step."""
    updated: MixtureParameters
    """Result of the M-step."""
    statistics: SufficientStatistics
    """Statistics of all rows."""
    bound: float
    """Bound at ``current``, in nats per unit of weight."""
    change: float
    """Change of the bound since the previous E-step that counted, in nats per unit of weight; infinite without one."""
    tol: float
    """Tolerance of the fit, in nats per unit of weight."""
    is_last: bool = False
    """The start has reached its limit: a proposal would not be used."""


@dataclass(frozen=True)
class SampleWork:
    """EM steps on a sample that a proposal took."""

    n_iter: int
    n_rows: int
    seconds: float
    """Wall time."""
    arithmetic: str
    """Arithmetic of the last step."""


@dataclass(frozen=True)
class Proposed(Generic[Learnt]):
    """Outcome of `Accelerator.propose`."""

    state: Learnt
    mixture: MixtureParameters | None = None
    """Valid mixture for the next E-step; None for the result of the M-step."""
    work: SampleWork | None = None


class Accelerator(ABC, Generic[Learnt]):
    """Rule that proposes the mixture of the next E-step from mixtures, bounds and statistics.

    An accelerator holds hyper-parameters only, and data that stay the same during a fit. Its methods take the state
    that was learnt from a start, and return a new one. The caller takes the E-steps one after the other, and calls:

    * `initial` for a start, and after the mixture was changed in any other way.
    * `propose` after an E-step that counts, and its M-step.
    * `reject` if the bound at a proposal is lower than at the last E-step that counted. The next E-step is then at the
      other proposal that `reject` returns, or else at the result of that M-step, where it counts.
    """

    state_type: ClassVar[type[AcceleratorState]]
    """Class of the state."""

    @abstractmethod
    def initial(self) -> Learnt:
        """State before the first step."""

    @abstractmethod
    def propose(self, state: Learnt, step: EMStep) -> Proposed[Learnt]:
        """Learn from a step, and propose a mixture for the next E-step in place of the result of the M-step."""

    @abstractmethod
    def reject(self, state: Learnt, updated: MixtureParameters) -> tuple[Learnt, MixtureParameters | None]:
        """Learn that the bound was lower at the last proposal; ``updated`` is the result of the last M-step.

        Returns
        -------
        state : AcceleratorState
        proposal : MixtureParameters or None
            Another proposal; None for ``updated`` itself.
        """

    @abstractmethod
    def settled(self, state: Learnt, change: float, tol: float) -> bool:
        """Test whether the fit has converged, after `propose`.

        Parameters
        ----------
        state : AcceleratorState
        change : float
            Change of the bound since the previous E-step that counted, in nats per unit of weight.
        tol : float
            Tolerance, in nats per unit of weight.
        """


def no_numbers() -> Array:
    """Make a vector for a field of a state that is unknown."""
    return np.empty(0)


@dataclass(frozen=True)
class BFGSState(AcceleratorState):
    """State of `LimitedMemoryBFGS`: m curvature pairs in the n coordinates of a mixture, and the trust radius."""

    steps: Array = field(default_factory=no_numbers)
    """Steps s from one E-step to the next, the latest last, (m, n)."""
    falls: Array = field(default_factory=no_numbers)
    """Decreases y of EM's step over each of the steps, (m, n)."""
    em_step: Array = field(default_factory=no_numbers)
    """EM's step from the last E-step, (n,); empty if the step was not finite."""
    planned: Array = field(default_factory=no_numbers)
    """Step from the last E-step to the next, (n,)."""
    proposed: bool = False
    """The next E-step is at a proposal."""
    trust_radius: float = 4.0
    """Length of the longest step, in lengths of EM's step."""
    at_radius: bool = False
    """The trust radius limited the length of the proposal."""
    rejected: int = 0
    """Rejected proposals since the last accepted one."""
    pause: int = 0
    """Plain steps until the next proposal."""
    em_gain: float = np.inf
    """Predicted gain of EM's step, in nats per unit of weight."""
    full_gain: float = np.inf
    """Predicted gain up to the maximum, in nats per unit of weight."""

    @property
    def gain_left(self) -> float:
        return self.full_gain

    def check_size(self, n_coordinates: int) -> None:
        for name in ("em_step", "steps"):
            array = getattr(self, name)
            if array.size and array.shape[-1] != n_coordinates:
                raise ValueError(f"{name} has shape {array.shape}; the mixture has {n_coordinates} coordinates")

    def __post_init__(self) -> None:
        n = self.em_step.size
        if self.em_step.shape != self.planned.shape or self.em_step.ndim != 1:
            raise ValueError(
                f"em_step has shape {self.em_step.shape}, planned {self.planned.shape}; expected (n,) for both"
            )
        pairs = self.steps.shape
        if pairs != self.falls.shape or not (pairs == (0,) or (len(pairs) == 2 and n in (0, pairs[1]))):
            shapes = f"steps has shape {pairs}, falls {self.falls.shape}, em_step {self.em_step.shape}"
            raise ValueError(f"{shapes}; expected (m, n), (m, n) and (n,)")
        for name in ("steps", "falls", "em_step", "planned"):
            array = getattr(self, name)
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"{name} contains NaN or infinity, or is not in double precision (float64)")
        if not self.trust_radius > 0:
            raise ValueError(f"trust_radius is {self.trust_radius}; expected a positive number")
        for name in ("rejected", "pause"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected no negative number")


@dataclass(frozen=True)
class LimitedMemoryBFGS(Accelerator[BFGSState]):
    """Limited-memory BFGS with EM's step for the gradient.

    Over a step s, EM's step changes from f to f − y. The matrix H approximates the inverse of the matrix that maps s
    to y, from the last ten pairs, and the proposal is H f. Without pairs the proposal is EM's step f; in directions
    that no pair has explored, H scales f as the latest pair does.

    A step is at most as long as the trust radius, a multiple of EM's step. The radius doubles if it limited a proposal
    and the bound grew, and shrinks after a rejection. No component moves further than its own standard deviation.
    Successive rejections are followed by 0, 1, 3, 7, … plain steps, and from the second on all pairs are discarded:
    an acceleration that does not work costs next to nothing.

    The fit has converged when the predicted gain of EM's step is less than ``tol``, and either the bound has changed by
    less than ``tol``, or the predicted gain up to the maximum, ½ f · H f, is less than ``tol``. One small change of the
    bound is not enough: it may come from a bad step.

    Parameters
    ----------
    smallest_variance : float
        Smallest variance that a proposal may have, in squared units of the data.

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
    _RIDGE_ROUNDING: ClassVar = 0.9  # a variance of exactly the smallest value is rounded in products of factors

    def initial(self) -> BFGSState:
        return BFGSState()

    def propose(self, state: BFGSState, step: EMStep) -> Proposed[BFGSState]:
        em_step, paused = displacement(step.current, step.updated), state.pause > 0
        state = self._learn(state, em_step)
        known = bool(np.isfinite(em_step).all())  # otherwise the next step makes no pair
        plain: dict[str, Any] = {
            "em_step": em_step if known else no_numbers(),
            "planned": em_step if known else no_numbers(),
            "em_gain": float(em_step @ em_step) if known else np.inf,
            "full_gain": np.inf,
            "proposed": False,
            "at_radius": False,
            "pause": state.pause - paused,
        }
        if not (len(state.steps) and known):
            return Proposed(replace(state, **plain))
        direction = ascent_direction(state.steps, state.falls, em_step)
        plain["full_gain"] = 0.5 * float(em_step @ direction)
        if paused:
            return Proposed(replace(state, **plain))
        longest = state.trust_radius * float(np.linalg.norm(em_step))
        length = float(np.linalg.norm(direction))
        planned = shortened(step.current, direction * (longest / max(length, longest, _TINY)), self._LONGEST)
        proposal = displaced(step.current, planned)
        if not self._wide_enough(proposal):
            return Proposed(replace(state, **plain))
        learnt = replace(state, **(plain | {"planned": planned, "proposed": True, "at_radius": length > longest}))
        return Proposed(learnt, proposal)

    def reject(self, state: BFGSState, updated: MixtureParameters) -> tuple[BFGSState, MixtureParameters | None]:
        rejected = state.rejected + 1
        forgets = rejected > 1
        learnt = replace(
            state,
            steps=no_numbers() if forgets else state.steps,
            falls=no_numbers() if forgets else state.falls,
            planned=state.em_step,
            proposed=False,
            trust_radius=max(state.trust_radius * self._SHRINKAGE, self._LEAST_RADIUS),
            rejected=rejected,
            pause=min(2 ** (rejected - 1) - 1, self._LONGEST_PAUSE),
        )
        return learnt, None

    def settled(self, state: BFGSState, change: float, tol: float) -> bool:
        return state.em_gain < tol and (abs(change) < tol or state.full_gain < tol)

    def _learn(self, state: BFGSState, em_step: Array) -> BFGSState:
        """Learn a curvature pair from the step since the last E-step; widen the trust radius after an acceptance."""
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
        """Test whether all numbers are finite, and no variance is smaller than an M-step could make it."""
        structure, narrowest = proposal.structure, self._RIDGE_ROUNDING * self.smallest_variance
        try:
            structure.precisions_cholesky(structure.add_ridge(proposal.covariances.copy(), -narrowest))
        except IllDefinedCovarianceError:
            return False
        return bool(np.isfinite(proposal.means).all() and np.isfinite(proposal.weights).all())


def ascent_direction(steps: Array, falls: Array, em_step: Array) -> Array:
    """Compute H f by the two-loop recursion (Nocedal 1980; Nocedal & Wright 2006, algorithm 7.4).

    Parameters
    ----------
    steps, falls : array of shape (m, n)
        Pairs s and y, the latest last.
    em_step : array of shape (n,)
        EM's step f.
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
"""Accelerations by name; the constructor takes the smallest variance that a proposal may have."""
