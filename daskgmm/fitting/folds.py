"""Folds of the passes of a fit: the E-step, and the score."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ..core.elementwise import ElementwiseBackend
from ..core.kernel import BlockPlan, RowResults
from ..core.kernel_choice import Kernel
from ..core.statistics import SufficientStatistics
from ..core.structure import CovarianceStructure
from ..data.held_out import HeldOut
from ..data.row_block import RowBlock
from ..data.row_checks import COMPLETE_ROWS, RowKind, check_weights
from ..engine.fold import Evaluator
from ..engine.tree import leaf_rows

Array = np.ndarray[Any, np.dtype[Any]]

# Kernels treat infinity as a point very far away. Finite rows that lie very far away cost only another check.
_SUSPICIOUS = -1e15


@dataclass(frozen=True)
class Cost:
    """Time and memory of an E-step, from the shape of the problem alone: a plan needs them before the parameters."""

    leaf_rows: int
    row_seconds: float
    work_bytes: int
    value_bytes: int
    process_bytes: int

    @classmethod
    def of(
        cls,
        structure: CovarianceStructure,
        n_components: int,
        n_features: int,
        block: BlockPlan,
        backend: ElementwiseBackend,
        row_kind: RowKind = COMPLETE_ROWS,
    ) -> Cost:
        """Cost of a kernel with the given blocks and backend, for rows of that kind."""
        second_moments = math.prod(structure.moments_shape(n_components, n_features))
        value_bytes = 8 * (n_components * (1 + n_features) + second_moments)
        rows = leaf_rows(n_features, value_bytes)
        # Two products with K × P coefficients, and K exponentials.
        row_seconds = 1e-8 * n_components + 4 * (value_bytes / 8) / 4e9
        # A leaf may have to be copied to change its dtype or memory order; densities and their parts; sums of features.
        work = block.n_bytes + rows * (8 * (n_features + 4) + row_kind.usable_bytes(8 * n_features)) + 3 * value_bytes
        return cls(rows, row_seconds, work, value_bytes, backend.process_bytes)


@dataclass(frozen=True)
class KernelFold:
    """Base of the folds that apply a kernel to all rows."""

    kernel: Kernel
    cost: Cost = field(init=False)
    """Cost, computed in the driver, so that leaves are the same wherever a task runs."""
    row_kind: RowKind = field(default=COMPLETE_ROWS, kw_only=True)
    """Kind of the rows."""

    def __post_init__(self) -> None:
        p, kernel = self.kernel.parameters, self.kernel
        cost = Cost.of(p.structure, p.n_components, p.n_features, kernel.plan, kernel.backend, self.row_kind)
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
        """Size of the scratch arrays of a task, and of the arrays to evaluate one leaf."""
        return self.cost.work_bytes

    @property
    def value_bytes(self) -> int:
        """Size of the value of a range of rows."""
        return self.cost.value_bytes

    @property
    def process_bytes(self) -> int:
        """Size of the code that the kernel loads, once in a process."""
        return self.cost.process_bytes


@dataclass(frozen=True)
class ExpectationFold(KernelFold):
    """The E-step: `SufficientStatistics` of all rows."""

    def start(self) -> _Expectation:
        """Return the evaluator for the leaves of one task."""
        return _Expectation(self.kernel, self.row_kind)


class _Expectation:
    def __init__(self, kernel: Kernel, row_kind: RowKind) -> None:
        self._kernel, self._row_kind, self._work = kernel, row_kind, kernel.workspace()

    def __call__(self, start: int, block: RowBlock) -> SufficientStatistics:
        counting = self._row_kind.counting(block)
        if not len(counting):
            return replace(self._kernel.zero(), n_rows=len(block))
        with np.errstate(invalid="ignore", over="ignore"):
            statistics = self._kernel.statistics(counting.rows, counting.weights, self._work)
        if not statistics.log_likelihood > _SUSPICIOUS:  # true for NaN
            # Checking every row in every pass would cost more than looking for the bad row afterwards.
            self._row_kind.check(self._row_kind.usable(block)[0].rows, start)
        return statistics if counting is block else replace(statistics, n_rows=len(block))


@dataclass(frozen=True)
class Score:
    """Log-likelihood of a set of rows. ``+`` joins two sets."""

    log_likelihood: float
    """Σ w log p(x), in nats."""

    weight_sum: float
    n_rows: int

    entropy: float = math.nan
    """Entropy of the responsibilities, −Σ w Σ_k r log r, in nats; NaN if not requested."""

    n_incomplete: int = 0
    """Rows that were left out because they are incomplete."""

    def __add__(self, other: Score) -> Score:
        return Score(
            self.log_likelihood + other.log_likelihood,
            self.weight_sum + other.weight_sum,
            self.n_rows + other.n_rows,
            self.entropy + other.entropy,
            self.n_incomplete + other.n_incomplete,
        )

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight, in nats."""
        return self.log_likelihood / self.weight_sum


@dataclass(frozen=True)
class ScoreFold(KernelFold):
    """The log-likelihood of all rows, without statistics."""

    entropy: bool = False
    """Compute the entropy of the responsibilities, too."""

    @property
    def work_bytes(self) -> int:
        """Size as for other folds; with the entropy, also a block's log-responsibilities and one entropy per row."""
        logs = self.kernel.parameters.n_components * self.kernel.plan.rows + self.leaf_rows
        return self.cost.work_bytes + 8 * logs * self.entropy

    def start(self) -> Evaluator:
        """Return the evaluator for the leaves of one task."""
        return _Scorer(self)


class _Scorer:
    def __init__(self, fold: ScoreFold) -> None:
        self._kernel, self._row_kind, self._entropy = fold.kernel, fold.row_kind, fold.entropy
        self._work = fold.kernel.workspace()

    def __call__(self, start: int, block: RowBlock) -> Score:
        return _sum(*self.evaluate(start, block))

    def evaluate(self, start: int, block: RowBlock) -> _Scored:
        """Compute the log-density of every row, and the entropy if requested."""
        block, left_out = self._row_kind.usable(block)
        self._row_kind.check(block.rows, start)
        if block.weights is not None:
            check_weights(block.weights, start)
        density, entropy = np.empty(len(block)), np.empty(len(block)) if self._entropy else None
        self._kernel.fill(RowResults(log_density=density, entropy=entropy), block.rows, self._work)
        return _Scored(density, entropy, block.weights, left_out)


class _Scored(NamedTuple):
    """Results for the rows of a leaf."""

    density: Array
    entropy: Array | None
    weights: Array | None
    left_out: Array | None
    """Mask of the incomplete rows; None if there are none."""


@np.errstate(over="ignore")  # `check_weight_sum` reports weights whose sum overflows
def _sum(density: Array, entropy: Array | None, weights: Array | None, left_out: Array | None) -> Score:
    """Add the results of the rows; weights of one give the same bits as no weights."""
    n_rows, n_incomplete = len(density), 0 if left_out is None else int(np.count_nonzero(left_out))
    weight_sum = float(n_rows)
    if weights is not None:
        heavy = weights > 0  # a density of −∞ times a weight of 0 would be NaN
        weight_sum, weights = float(weights.sum()), weights[heavy]
        density = density[heavy] * weights
        entropy = None if entropy is None else entropy[heavy] * weights
    total = math.nan if entropy is None else float(entropy.sum())
    return Score(float(density.sum()), weight_sum, n_rows, total, n_incomplete)


@dataclass(frozen=True)
class SplitScore:
    """`Score` of the training rows, and of the held-out rows. ``+`` joins two sets of rows."""

    training: Score
    held_out: Score

    def __add__(self, other: SplitScore) -> SplitScore:
        return SplitScore(self.training + other.training, self.held_out + other.held_out)


@dataclass(frozen=True)
class SplitScoreFold(ScoreFold):
    """`SplitScore` of all rows, in one reading."""

    held_out: HeldOut | None = None
    """Rule for the held-out rows; None to hold out no rows."""

    def start(self) -> Evaluator:
        """Return the evaluator for the leaves of one task."""
        return _SplitScorer(_Scorer(self), self.held_out)


class _SplitScorer:
    def __init__(self, scorer: _Scorer, held_out: HeldOut | None) -> None:
        self._scorer, self._held_out = scorer, held_out

    def __call__(self, start: int, block: RowBlock) -> SplitScore:
        scored = self._scorer.evaluate(start, block)
        if self._held_out is None:
            return SplitScore(_sum(*scored), Score(0.0, 0.0, 0, 0.0))
        weights = np.ones(len(block)) if scored.weights is None else scored.weights
        out = self._held_out(start, start + len(block))
        training, held_out = np.where(out, 0.0, weights), np.where(out, weights, 0.0)
        return SplitScore(_sum(*scored._replace(weights=training)), _sum(*scored._replace(weights=held_out)))
