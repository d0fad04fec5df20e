"""Information criteria of scores, and the rule that stops mixtures which can no longer have the lowest criterion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..criteria import CRITERIA, Criterion
from .folds import Score


def information_criteria(score: Score, n_free: int) -> dict[str, float]:
    """Compute all information criteria that the score determines; some of them need its entropy."""
    known = not math.isnan(score.entropy)
    return {name: _value(each, score, n_free) for name, each in CRITERIA.items() if known or not each.uses_entropy}


def criterion_value(criterion: str, bound: float, weight_sum: float, n_free: int) -> float:
    """Compute a running criterion of a mixture with mean log-likelihood ``bound``."""
    return _value(CRITERIA[criterion], Score(bound * weight_sum, weight_sum, 0), n_free)


def _value(criterion: Criterion, score: Score, n_free: int) -> float:
    return criterion.formula(score.log_likelihood, n_free, score.weight_sum, score.entropy)


@dataclass(frozen=True)
class Standing:
    """Standing of a start against the best of all starts."""

    n_bounds: int = 0
    """Number of bounds that were compared."""
    n_behind: int = 0
    """Number of the last comparisons, in a row, in which the start was hopeless."""

    def __post_init__(self) -> None:
        if self.n_bounds < 0 or self.n_behind < 0:
            raise ValueError(f"{self.n_bounds} bounds, behind after {self.n_behind}; expected no negative numbers")


@dataclass(frozen=True)
class PrunerState:
    """State of a `PruningRule`."""

    lowest: float = math.inf
    """Lowest criterion that any start has reached."""
    standings: Mapping[tuple[int, int], Standing] = field(default_factory=dict)
    """Standings by number of the mixture and number of the start."""


@dataclass(frozen=True)
class PruningRule:
    """Heuristic that stops mixtures, among several fitted together, which can no longer have the lowest criterion.

    Near convergence the gains of EM shrink by a constant factor r; after a last gain g, the bound still rises by about
    g r / (1 − r) (Aitken's δ²; for mixtures: Böhning et al., Ann. Inst. Stat. Math. 46, 1994). A start is hopeless if
    twice this gain would leave its criterion above the lowest criterion that any start has reached. The rule stops a
    start that is hopeless in ``patience`` iterations in a row, including a start that would have left a plateau later.

    Parameters
    ----------
    criterion : str
        One of `daskgmm.criteria.running_criteria`.
    patience : int
        Number of iterations in a row.
    """

    criterion: str
    patience: int

    def initial(self) -> PrunerState:
        """State before the first pass."""
        return PrunerState()

    def __call__(
        self, state: PrunerState, start: tuple[int, int], bounds: Sequence[float], weight_sum: float, n_free: int
    ) -> tuple[PrunerState, bool]:
        """Decide whether to stop a start; see `fit_state.EarlyStop`."""
        standing = state.standings.get(start, Standing())
        if len(bounds) > standing.n_bounds:  # a rejected step adds no bound
            lowest = min(state.lowest, self._value(bounds[-1], weight_sum, n_free))
            attainable = self._value(bounds[-1] + 2 * remaining_gain(bounds), weight_sum, n_free)
            standing = Standing(len(bounds), standing.n_behind + 1 if attainable > lowest else 0)
            state = PrunerState(lowest, {**state.standings, start: standing})
        return state, standing.n_behind >= self.patience

    def _value(self, bound: float, weight_sum: float, n_free: int) -> float:
        return criterion_value(self.criterion, bound, weight_sum, n_free)


def remaining_gain(bounds: Sequence[float]) -> float:
    """Extrapolate the remaining gain of bounds whose gains shrink; infinite if the gains do not shrink yet."""
    if len(bounds) < 3:
        return math.inf
    before, last = bounds[-2] - bounds[-3], bounds[-1] - bounds[-2]
    if last <= 0:
        return 0.0
    return last * last / (before - last) if last < before else math.inf
