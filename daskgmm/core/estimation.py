"""What tells one kind of fit from another: how statistics become new parameters, and what is to grow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from .mixture import MixtureParameters
from .statistics import SufficientStatistics

Array = np.ndarray[Any, np.dtype[Any]]

State = TypeVar("State")
"""What a fit improves: parameters, or a distribution over them."""


class Estimation(ABC, Generic[State]):
    """The M-step of one kind of fit. The E-step and the loop around both are the same for all of them."""

    measure: ClassVar[str]
    """What `bound` is called."""

    reg_covar: float
    """Added to every variance, in squared units of the data."""

    def begin(self, draw: Callable[[], SufficientStatistics]) -> State:
        """First state.

        Parameters
        ----------
        draw : callable
            Makes the statistics of a start. It takes time and random numbers: not called where it is not needed.
        """
        return self.update(draw())

    @abstractmethod
    def update(self, statistics: SufficientStatistics) -> State:
        """The M-step: statistics of the last E-step -> next state.

        Raises
        ------
        IllDefinedCovarianceError
            If a component collapsed.
        """

    @property
    def relocates(self) -> bool:
        """Whether components may be moved to clusters that the start knew nothing of."""
        return False

    def empty(self, statistics: SufficientStatistics) -> tuple[int, ...]:
        """Components that no row belongs to, where that is a loss."""
        return ()

    def reseed(self, statistics: SufficientStatistics, lost: tuple[int, ...]) -> State | None:
        """The M-step with other components in the place of those that collapsed or are empty; None where none help."""
        return None

    @abstractmethod
    def counts(self, state: State, weight_sum: float) -> Array:
        """Weight of the rows that each component describes, out of ``weight_sum``, shape (K,)."""

    @abstractmethod
    def parameters(self, state: State) -> MixtureParameters:
        """What the next E-step is to be computed with."""

    @abstractmethod
    def bound(self, statistics: SufficientStatistics, updated: State) -> float:
        """What grows with every iteration, in nats per unit of weight.

        Parameters
        ----------
        statistics : SufficientStatistics
            Of the E-step.
        updated : State
            What `update` made of them.
        """
