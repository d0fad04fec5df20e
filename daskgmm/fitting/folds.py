"""What the passes of a fit compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.kernels import Kernel
from ..core.statistics import SufficientStatistics
from ..data.survey import check_finite, check_weights
from ..engine.tree import leaf_rows

Array = np.ndarray[Any, np.dtype[Any]]

# Kernels take infinity for a point very far away. Rows that lie there and are finite only cost another look at them.
_SUSPICIOUS = -1e15


@dataclass(frozen=True)
class _KernelFold:
    kernel: Kernel
    leaf_rows: int = field(init=False)
    """Rows of a leaf: settled where the pass begins, so that it is the same wherever a task runs."""

    def __post_init__(self) -> None:
        rows = leaf_rows(self.kernel.parameters.n_features, self.kernel.zero().nbytes)
        object.__setattr__(self, "leaf_rows", rows)

    @property
    def row_seconds(self) -> float:
        """Rough time of one row: two products with K × P coefficients, and K exponentials."""
        k, statistics_bytes = self.kernel.parameters.n_components, self.kernel.zero().nbytes
        return 1e-8 * k + 4 * (statistics_bytes / 8) / 4e9


@dataclass(frozen=True)
class ExpectationFold(_KernelFold):
    """The E-step: `SufficientStatistics` of all rows."""

    def start(self) -> _Expectation:
        """Evaluator for the leaves of one task."""
        return _Expectation(self.kernel)


class _Expectation:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._work = kernel, kernel.workspace()

    def __call__(self, start: int, rows: Array, weights: Array | None) -> SufficientStatistics:
        with np.errstate(invalid="ignore", over="ignore"):
            statistics = self._kernel.statistics(rows, weights, self._work)
        if not statistics.log_likelihood > _SUSPICIOUS:  # true for NaN
            # Checking every row in every pass would cost more than finding out afterwards where it went wrong.
            check_finite(rows, start)
        return statistics


@dataclass(frozen=True)
class Score:
    """Log-likelihood of some rows. ``+`` joins two sets of rows."""

    log_likelihood: float
    """Σ w log p(x), in nats."""

    weight_sum: float
    n_rows: int

    def __add__(self, other: Score) -> Score:
        return Score(
            self.log_likelihood + other.log_likelihood, self.weight_sum + other.weight_sum, self.n_rows + other.n_rows
        )


@dataclass(frozen=True)
class ScoreFold(_KernelFold):
    """The log-likelihood of all rows, without statistics."""

    def start(self) -> _Scorer:
        """Evaluator for the leaves of one task."""
        return _Scorer(self.kernel)


class _Scorer:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._work = kernel, kernel.workspace()

    @np.errstate(over="ignore")  # of weights whose sum overflows, which is an error of its own
    def __call__(self, start: int, rows: Array, weights: Array | None) -> Score:
        check_finite(rows, start)
        density = self._kernel.log_density(rows, self._work)
        if weights is None:
            return Score(float(density.sum()), float(len(rows)), len(rows))
        check_weights(weights, start)
        heavy = weights > 0
        return Score(float(density[heavy] @ weights[heavy]), float(weights.sum()), len(rows))
