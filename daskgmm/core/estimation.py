"""Interface of M-steps: one kind of fit is an update of parameters from statistics, and an objective that grows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from .mixture import MixtureParameters
from .statistics import SufficientStatistics

Array = np.ndarray[Any, np.dtype[Any]]

State = TypeVar("State")
"""State that a fit improves: parameters, or a distribution over parameters."""


class Estimation(ABC, Generic[State]):
    """M-step of one kind of fit. All kinds share the E-step and the loop around both."""

    measure: ClassVar[str]
    """Name of the objective that `bound` computes."""

    reg_covar: float
    """Number added to every variance, in squared units of the data."""

    def begin(self, draw: Callable[[], SufficientStatistics]) -> State:
        """Make the first state.

        Parameters
        ----------
        draw : callable
            Returns the statistics of a start. A draw takes time and random numbers: called only if it is needed.
        """
        return self.update(draw())

    @abstractmethod
    def update(self, statistics: SufficientStatistics) -> State:
        """Run the M-step: statistics of the last E-step -> next state.

        Raises
        ------
        IllDefinedCovarianceError
            If a component collapsed.
        """

    @property
    def relocates(self) -> bool:
        """Permission to move components to clusters that the start has missed."""
        return False

    @property
    def leaves_empty(self) -> bool:
        """Permission to leave components without rows, where the objective is then higher."""
        return False

    def empty(self, statistics: SufficientStatistics) -> tuple[int, ...]:
        """Components without rows that are to begin anew; none in fits that may leave components empty."""
        return ()

    def reseed(self, statistics: SufficientStatistics, lost: tuple[int, ...]) -> State | None:
        """Run the M-step with new components in place of collapsed or empty ones; return None if none can be made."""
        return None

    @abstractmethod
    def counts(self, state: State, weight_sum: float) -> Array:
        """Weight of the rows that each component describes, out of ``weight_sum``, shape (K,)."""

    @abstractmethod
    def parameters(self, state: State) -> MixtureParameters:
        """Parameters for the next E-step."""

    @abstractmethod
    def bound(self, statistics: SufficientStatistics, updated: State) -> float:
        """Objective, which grows with every iteration, in nats per unit of weight.

        Parameters
        ----------
        statistics : SufficientStatistics
            Statistics of the E-step.
        updated : State
            Result of `update` for these statistics.
        """
