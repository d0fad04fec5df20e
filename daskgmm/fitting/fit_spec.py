"""Specification of a fit, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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

#: Default number of rows from which starts are made.
START_ROWS = 100_000

_NUMBERS_PER_PARAMETER = 5

#: Default number of starts on a sample.
SAMPLE_STARTS = 4


@dataclass(frozen=True)
class Settings:
    """Settings of a fit."""

    initialization: Initialization
    tol: float
    """Change of the bound below which a start has converged, in nats per unit of weight."""
    max_iter: int
    n_init: int | None
    """Number of starts; None for 1 on all data or by a search, and `SAMPLE_STARTS` on a sample of ``init_size``."""
    init_size: int | None
    """Rows of the sample on which starts run before all data; None to run starts on all data from the beginning."""
    accelerator: Accelerator[Any] | None = None
    """Proposer of longer steps; None for plain EM."""
    accelerates_few: bool = True
    """Accelerate fits of at most `START_ROWS` rows, too."""
    searches: bool = False
    """Search for the start of a fit of more than `START_ROWS` rows on small samples (`StartSearch`)."""
    scatter: bool = False
    """Compute all second moments of the data in the survey."""

    def resolved(self, n_rows: int) -> Settings:
        """Return the settings for ``n_rows`` rows with positive weight."""
        if n_rows > START_ROWS:
            return self
        return replace(self, searches=False, accelerator=self.accelerator if self.accelerates_few else None)

    @property
    def single(self) -> bool:
        """Permission to take the first E-steps in single precision: plain EM keeps the trajectory of exact EM."""
        return self.accelerator is not None

    @property
    def scattered(self) -> CovarianceStructure | None:
        """Structure whose second moments the survey computes; None for variances alone."""
        return self.initialization.structure if self.scatter else None

    @property
    def sample_size(self) -> int:
        """Largest number of rows in the survey's sample."""
        return self.init_size or START_ROWS

    def samples(self, n_rows: int) -> bool:
        """Test whether the starts of a fit to ``n_rows`` rows run on samples first; one start goes on to all data."""
        larger = self.searches or (self.init_size is not None and n_rows > self.init_size)
        return larger and self.max_iter > 0

    def fewest_rows(self, n_features: int) -> int:
        """Smallest sample that suffices for a start: `_NUMBERS_PER_PARAMETER` numbers for each free parameter."""
        how = self.initialization
        n_parameters = free_parameters(how.structure, how.n_components, n_features)
        return max(how.n_components, math.ceil(_NUMBERS_PER_PARAMETER * n_parameters / n_features))

    def n_starts(self, n_rows: int) -> int:
        """Number of starts of a fit to ``n_rows`` rows."""
        return self.n_init or (SAMPLE_STARTS if self.samples(n_rows) and not self.searches else 1)


@dataclass(frozen=True)
class Continuation(Generic[State]):
    """State and bound of an earlier fit, to be continued."""

    state: State
    lower_bound: float


@dataclass(frozen=True)
class FitSpec(Generic[State]):
    """Specification of a fit of one mixture."""

    settings: Settings
    prepare: Callable[[Survey], Estimation[State]]
    """Maker of the estimation (the M-step), which may depend on the survey."""
    random_state: np.random.RandomState
    continuation: Continuation[State] | None = None
    """Earlier fit to continue instead of making starts."""
    label: str = ""
    """Name of the mixture in events, if several are fitted at once."""


@dataclass(frozen=True)
class FitResult(Generic[State]):
    """Result of a fit: the end of its best start."""

    state: State
    lower_bounds: list[float]
    """Bound after each iteration that was not rejected."""
    n_iter: int
    """Iterations over all data, rejected ones included."""
    converged: bool
    history: list[PassRecord]
    """Records of all starts."""
    notes: list[Warning]
    """Warnings for the user."""
    environment: Mapping[str, str]
    """Software and processor, by name, on which the last bits of the result depend."""
    stopped: bool = False
    """Stopped before convergence by an `EarlyStop`."""
    gain_left: float = 0.0
    """Gain that is left up to the maximum, at most, in nats; see `daskgmm.fitting.comparison.gain_left`."""
    n_incomplete: int = 0
    """Rows that took no part because they are incomplete."""

    @property
    def lower_bound(self) -> float:
        """Bound of the last iteration; −∞ without iterations."""
        return self.lower_bounds[-1] if self.lower_bounds else -np.inf


@dataclass(frozen=True)
class FailedFit:
    """Failure of a fit: all starts ended in a collapsed component."""

    error: IllDefinedCovarianceError
    """Error of the last collapse."""
    history: list[PassRecord]
    notes: list[Warning]
