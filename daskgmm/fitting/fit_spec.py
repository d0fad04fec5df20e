"""Specification of a fit, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from ..core.acceleration import Accelerator
from ..core.estimation import Estimation, State
from ..core.mixture import free_parameters
from ..core.structure import CovarianceStructure
from ..errors import IllDefinedCovarianceError
from .history import PassRecord
from .initialization import Initialization
from .survey import Survey

#: Rows that starts are made from where nothing else is asked for.
START_ROWS = 100_000

_NUMBERS_PER_PARAMETER = 5

#: Starts on a sample where nothing else is asked for.
SAMPLE_STARTS = 4


@dataclass(frozen=True)
class Settings:
    """What a fit is asked to do."""

    initialization: Initialization
    tol: float
    """In nats per unit of weight."""
    max_iter: int
    n_init: int | None
    """None: one where starts see all data, `SAMPLE_STARTS` where they run on a sample."""
    init_size: int | None
    """Rows of the sample that starts run on before they see all data; None: they see all data from the first."""
    accelerator: Accelerator[Any] | None = None
    """None: plain EM."""
    scatter: bool = False
    """Whether the survey is to take all second moments of the data."""

    @property
    def scattered(self) -> CovarianceStructure | None:
        """Structure whose second moments the survey is to take; None for variances alone."""
        return self.initialization.structure if self.scatter else None

    @property
    def sample_size(self) -> int:
        """Largest number of rows that are kept in memory."""
        return self.init_size or START_ROWS

    def samples(self, n_rows: int) -> bool:
        """Whether starts run on a sample of so many rows before they see all of them."""
        return self.init_size is not None and n_rows > self.init_size and self.max_iter > 0

    def fewest_rows(self, n_features: int) -> int:
        """Rows of a sample that are enough for a start: `_NUMBERS_PER_PARAMETER` for each free parameter."""
        how = self.initialization
        n_parameters = free_parameters(how.structure, how.n_components, n_features)
        return max(how.n_components, math.ceil(_NUMBERS_PER_PARAMETER * n_parameters / n_features))

    def n_starts(self, n_rows: int) -> int:
        """How many starts there are."""
        return self.n_init or (SAMPLE_STARTS if self.samples(n_rows) else 1)


@dataclass(frozen=True)
class Continuation(Generic[State]):
    """An earlier fit that is to go on."""

    state: State
    lower_bound: float


@dataclass(frozen=True)
class FitSpec(Generic[State]):
    """A mixture that is to be fitted."""

    settings: Settings
    prepare: Callable[[Survey], Estimation[State]]
    """Makes the M-step, which may depend on what the survey found."""
    random_state: np.random.RandomState
    continuation: Continuation[State] | None = None
    """Go on from there instead of making starts."""
    label: str = ""
    """Names it in events, beside others."""


@dataclass(frozen=True)
class FitResult(Generic[State]):
    """The best start of a fit, at its end."""

    state: State
    lower_bounds: list[float]
    """One for each step up."""
    n_iter: int
    """Iterations over all data, those that were rejected included."""
    converged: bool
    history: list[PassRecord]
    """Of all starts."""
    notes: list[Warning]
    """What the user should be told."""
    environment: Mapping[str, str]
    """What the last bits depend on besides, by name."""
    stopped: bool = False
    """It was given up before it had converged."""

    @property
    def lower_bound(self) -> float:
        """Of the last iteration; −∞ where there was none."""
        return self.lower_bounds[-1] if self.lower_bounds else -np.inf


@dataclass(frozen=True)
class FailedFit:
    """A fit all whose starts ended in a collapsed component."""

    error: IllDefinedCovarianceError
    """Of the last of them."""
    history: list[PassRecord]
    notes: list[Warning]
