"""A start as a value: its complete state between two E-steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np

from ..core.acceleration import AcceleratorState
from ..core.estimation import State
from ..core.kernel_choice import ARITHMETICS
from ..errors import IllDefinedCovarianceError

PROPOSALS = ("accelerated", "moved")
"""Kinds of steps that are rejected if the bound falls."""


@dataclass(frozen=True)
class Reseeding:
    """Record of reseeded components."""

    n_iter: int
    """Number of the E-step of the start, counted from 1, after which the components were reseeded."""
    components: tuple[int, ...]
    collapsed: bool
    """Reason: True for a collapse, False for empty components."""

    def __post_init__(self) -> None:
        if self.n_iter < 0 or not self.components or min(self.components) < 0:
            raise ValueError(f"reseeding of the components {self.components} after E-step {self.n_iter}")


@dataclass(frozen=True)
class Proposal(Generic[State]):
    """A proposed state for the next E-step, in place of the updated state of the M-step."""

    state: State
    kind: str
    """One of `PROPOSALS`."""

    def __post_init__(self) -> None:
        if self.kind not in PROPOSALS:
            raise ValueError(f"proposal is {self.kind!r:.40}; expected one of {PROPOSALS}")


@dataclass(frozen=True)
class EMStart(Generic[State]):
    """Complete state of one start between two E-steps; a resumed start continues from the state with the same bits."""

    state: State
    """Updated state of the last accepted M-step; at the beginning, the initial state."""
    proposal: Proposal[State] | None = None
    """Proposed state for the next E-step, tried instead of ``state``."""
    deferred: Proposal[State] | None = None
    """Proposed state for the E-step after next, if the next one rejects a moved state."""
    lower_bounds: tuple[float, ...] = ()
    """Bound of each E-step that was not rejected. The bounds fall only by rounding and at reseedings."""
    compared_bound: float = -np.inf
    """Bound with which the next bound is compared."""
    rounding: float = 0.0
    """Largest possible rounding error of ``compared_bound``."""
    n_iter: int = 0
    """Number of E-steps, rejected ones included."""
    converged: bool = False
    stopped: bool = False
    """Stopped from outside, such as by a pruning rule."""
    collapsed: tuple[int, ...] | None = None
    """Components whose collapse ended the start; an empty tuple if all components share one covariance."""
    reseedings: tuple[Reseeding, ...] = ()
    precise: bool = False
    """Repeat the last E-step in the finest arithmetic."""
    coarsest: str = ARITHMETICS[0]
    """Coarsest arithmetic that the next E-steps may use."""
    single: bool = False
    """The next E-steps may round rows of any dtype to single precision."""
    relocates: bool = False
    """Call the relocator after the next plain step."""
    accelerator: AcceleratorState | None = None
    """State of the accelerator; None for plain EM."""

    def __post_init__(self) -> None:
        # Only the last one: a start is made anew several times in each step, and `Snapshot` checks all of them.
        if not self.lower_bound < np.inf:
            raise ValueError("lower_bounds ends with NaN or infinity")
        if not 0 <= self.rounding < np.inf:
            raise ValueError(f"rounding is {self.rounding}; expected a finite number, not negative")
        if self.n_iter < 0:
            raise ValueError(f"n_iter is {self.n_iter}; expected no negative number")
        if self.collapsed and min(self.collapsed) < 0:
            raise ValueError(f"collapsed is {self.collapsed!r:.40}; expected numbers of components")
        if self.coarsest not in ARITHMETICS:
            raise ValueError(f"coarsest is {self.coarsest!r:.40}; expected one of {ARITHMETICS}")

    @property
    def next_state(self) -> State:
        """State at which the next E-step is computed."""
        return self.proposal.state if self.proposal else self.state

    @property
    def lower_bound(self) -> float:
        """Last of ``lower_bounds``; −∞ before the first."""
        return self.lower_bounds[-1] if self.lower_bounds else -np.inf

    @property
    def failure(self) -> IllDefinedCovarianceError | None:
        """Error of the collapse that ended the start; None without a collapse."""
        return None if self.collapsed is None else IllDefinedCovarianceError(self.collapsed)

    def is_finished(self, max_iter: int) -> bool:
        """Test whether the start needs no further E-step."""
        return self.converged or self.stopped or self.collapsed is not None or self.n_iter >= max_iter
