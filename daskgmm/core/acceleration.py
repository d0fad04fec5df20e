"""Where to take the next E-step, from the last few."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from .mixture import MixtureParameters
from .structure import CovarianceStructure


class Accelerator(ABC):
    """Proposes where to evaluate next; knows nothing of data. One for each start."""

    @abstractmethod
    def propose(self, current: MixtureParameters, updated: MixtureParameters, bound: float) -> MixtureParameters | None:
        """Where to take the next E-step instead of at ``updated``; None: there."""

    @abstractmethod
    def reject(self) -> None:
        """The bound was lower at the last proposal."""

    @abstractmethod
    def settled(self, change: float, tol: float) -> bool:
        """Whether the fit has converged."""


ACCELERATIONS: dict[str, Callable[[CovarianceStructure], Accelerator]] = {}
