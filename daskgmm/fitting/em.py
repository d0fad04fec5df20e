"""Expectation-maximisation (Dempster, Laird & Rubin 1977): the loop, written once, and when it stops.

What is maximised is an `Estimation`: maximum likelihood, or the bound of variational inference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol

import numpy as np

from ..core.estimation import Estimation, State
from ..core.kernels import Kernel, QuadraticKernel, ResidualKernel, choose_kernel
from ..core.loops import PLAIN, Loops
from ..core.mixture import MixtureParameters
from ..core.statistics import Frame, SufficientStatistics
from ..data.source import Dataset
from ..engine.run import Engine
from ..errors import DataChangedError, IllDefinedCovarianceError
from .folds import ExpectationFold

Array = np.ndarray[Any, np.dtype[Any]]


class Sweep(Protocol):
    """One E-step over all rows, in an arithmetic that it may choose."""

    def __call__(self, parameters: MixtureParameters, *, precise: bool = False) -> SufficientStatistics:
        """Statistics under these parameters."""

    def resolves(self, parameters: MixtureParameters) -> bool:
        """Whether the arithmetic of the last E-step is fine enough for parameters that came out of it."""

    @property
    def arithmetic(self) -> str:
        """Of the last E-step."""


class DataSweep:
    """E-steps over a data set.

    Parameters
    ----------
    engine : Engine
    dataset : Dataset
    frame : Frame
        Where the data lie.
    loops : Loops
        What kernels use beside matrix products.
    """

    def __init__(self, engine: Engine, dataset: Dataset, frame: Frame, loops: Loops = PLAIN) -> None:
        self.engine, self.dataset, self.frame, self.loops = engine, dataset, frame, loops
        self._kernel: Kernel | None = None
        self._common: dict[str, Array] = {}

    def __call__(self, parameters: MixtureParameters, *, precise: bool = False) -> SufficientStatistics:
        kernel = (
            ResidualKernel(parameters, self.frame, self.loops)
            if precise
            else choose_kernel(parameters, self.frame, self.dataset.dtype, self.loops, self._common)
        )
        self._kernel = kernel
        statistics: SufficientStatistics = self.engine.run(self.dataset, ExpectationFold(kernel), "estep")
        if statistics.n_rows != self.dataset.n_rows:
            raise DataChangedError(
                f"a pass saw {statistics.n_rows} rows where {self.dataset.n_rows} were expected: "
                "the data changed during the fit"
            )
        return self._complete(kernel, statistics)

    def _complete(self, kernel: Kernel, statistics: SufficientStatistics) -> SufficientStatistics:
        """Add what does not depend on the parameters, which only the first pass computes."""
        if not isinstance(kernel, QuadraticKernel) or kernel.n_quadratic:
            return statistics
        if kernel.common_known:
            return kernel.complete(statistics, self._common[kernel.arithmetic])
        self._common[kernel.arithmetic] = statistics.second
        return statistics

    def resolves(self, parameters: MixtureParameters) -> bool:
        return self._kernel is not None and self._kernel.resolves(parameters)

    @property
    def arithmetic(self) -> str:
        return self._kernel.arithmetic if self._kernel else ""


@dataclass(frozen=True)
class Iteration(Generic[State]):
    """One E-step and the M-step after it."""

    state: State
    """After the M-step."""

    lower_bound: float
    """What the M-step's `Estimation.bound` says."""

    seconds: float
    """Wall time."""


def expectation_maximization(state: State, sweep: Sweep, estimation: Estimation[State]) -> Iterator[Iteration[State]]:
    """EM without an end: whoever takes the iterations decides when it is enough."""
    while True:
        begin = time.perf_counter()
        statistics, state = _step(state, sweep, estimation)
        yield Iteration(state, estimation.bound(statistics, state), time.perf_counter() - begin)


def _step(state: State, sweep: Sweep, estimation: Estimation[State]) -> tuple[SufficientStatistics, State]:
    parameters = estimation.parameters(state)
    statistics = sweep(parameters)
    try:
        updated = estimation.update(statistics)
        if sweep.resolves(estimation.parameters(updated)):
            return statistics, updated
    except IllDefinedCovarianceError:
        if sweep.arithmetic == ResidualKernel.arithmetic:
            raise
    # The M-step led to components so much tighter than the last ones that this arithmetic could not see their width.
    statistics = sweep(parameters, precise=True)
    return statistics, estimation.update(statistics)


@dataclass(frozen=True)
class Run(Generic[State]):
    """Where a start ended."""

    state: State
    lower_bounds: list[float]
    """One for each iteration."""
    converged: bool

    @property
    def lower_bound(self) -> float:
        """Of the last iteration; −∞ where there was none."""
        return self.lower_bounds[-1] if self.lower_bounds else -np.inf


def run_until_converged(
    iterations: Iterator[Iteration[State]],
    state: State,
    *,
    tol: float,
    max_iter: int,
    lower_bound: float = -np.inf,
    on_iteration: Callable[[int, Iteration[State], float], Any] = lambda *_: None,
) -> Run[State]:
    """Take iterations until the bound changes by less than ``tol``, or there were ``max_iter`` of them.

    Parameters
    ----------
    iterations : iterator of Iteration
    state : State
        Where the iterations begin: the result if there are none.
    tol : float
        In nats per unit of weight.
    max_iter : int
    lower_bound : float
        Of an earlier fit that is continued.
    on_iteration : callable
        Called with the number of the iteration, the iteration, and the change.
    """
    bounds: list[float] = []
    for number, iteration in enumerate(islice(iterations, max_iter), start=1):
        change = iteration.lower_bound - lower_bound
        state, lower_bound = iteration.state, iteration.lower_bound
        bounds.append(lower_bound)
        on_iteration(number, iteration, change)
        if abs(change) < tol:
            return Run(state, bounds, converged=True)
    return Run(state, bounds, converged=False)
