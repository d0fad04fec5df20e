"""What the passes of a fit compute."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.kernel import BlockPlan
from ..core.kernels import Kernel
from ..core.loops import Loops
from ..core.statistics import SufficientStatistics
from ..core.structure import CovarianceStructure
from ..data.survey import check_finite, check_weights
from ..engine.tree import leaf_rows

Array = np.ndarray[Any, np.dtype[Any]]

# Kernels take infinity for a point very far away. Rows that lie there and are finite only cost another look at them.
_SUSPICIOUS = -1e15


@dataclass(frozen=True)
class Cost:
    """What an E-step takes, as far as the shape of the problem tells: a plan needs it before there are parameters."""

    leaf_rows: int
    row_seconds: float
    work_bytes: int
    value_bytes: int
    process_bytes: int

    @classmethod
    def of(
        cls, structure: CovarianceStructure, n_components: int, n_features: int, block: BlockPlan, loops: Loops
    ) -> Cost:
        """Cost of a kernel with such blocks and loops."""
        second = math.prod(structure.second_shape(n_components, n_features))
        value_bytes = 8 * (n_components * (1 + n_features) + second)
        rows = leaf_rows(n_features, value_bytes)
        # Two products with K × P coefficients, and K exponentials.
        row_seconds = 1e-8 * n_components + 4 * (value_bytes / 8) / 4e9
        # A leaf may have to be copied to change its dtype or memory order; densities and their parts; sums of features.
        work = block.n_bytes + rows * 8 * (n_features + 4) + 3 * value_bytes
        return cls(rows, row_seconds, work, value_bytes, loops.process_bytes)


@dataclass(frozen=True)
class _KernelFold:
    kernel: Kernel
    cost: Cost = field(init=False)
    """Settled where the pass begins, so that leaves are the same wherever a task runs."""

    def __post_init__(self) -> None:
        p, kernel = self.kernel.parameters, self.kernel
        cost = Cost.of(p.structure, p.n_components, p.n_features, kernel.plan, kernel.loops)
        object.__setattr__(self, "cost", cost)

    @property
    def leaf_rows(self) -> int:
        """Rows of a leaf."""
        return self.cost.leaf_rows

    @property
    def row_seconds(self) -> float:
        """Rough time of one row."""
        return self.cost.row_seconds

    @property
    def work_bytes(self) -> int:
        """Scratch arrays of a task, and what evaluating one leaf allocates."""
        return self.cost.work_bytes

    @property
    def value_bytes(self) -> int:
        """The statistics of some rows."""
        return self.cost.value_bytes

    @property
    def process_bytes(self) -> int:
        """Code that the kernel loads, once in a process."""
        return self.cost.process_bytes


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
