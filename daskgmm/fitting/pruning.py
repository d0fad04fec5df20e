"""Information criteria of scores, and the contest of mixtures that are still running."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..criteria import CRITERIA, Criterion
from .folds import Score


def information_criteria(score: Score, n_free: int) -> dict[str, float]:
    """All criteria that the score suffices for: some need its entropy."""
    found = {name: _value(criterion, score, n_free) for name, criterion in CRITERIA.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _value(criterion: Criterion, score: Score, n_free: int) -> float:
    return criterion.formula(score.log_likelihood, n_free, score.weight_sum, score.entropy)


@dataclass(frozen=True)
class Standing:
    """How a start compares with the best of all starts."""

    n_bounds: int = 0
    """Bounds that were compared."""
    n_behind: int = 0
    """Comparisons in a row after which the start was hopeless."""

    def __post_init__(self) -> None:
        if self.n_bounds < 0 or self.n_behind < 0:
            raise ValueError(f"{self.n_bounds} bounds, behind after {self.n_behind}; expected no negative numbers")


@dataclass(frozen=True)
class PrunerState:
    """All that a `PruningRule` has to remember."""

    lowest: float = math.inf
    """Lowest criterion that any start has reached."""
    standings: Mapping[tuple[int, int], Standing] = field(default_factory=dict)
    """By the number of the mixture, and of its start."""


@dataclass(frozen=True)
class PruningRule:
    """Tells which of several mixtures that are fitted together can no longer have the lowest criterion: a heuristic.

    The gains of EM shrink in the end by a constant factor r, and with the last gain g the bound still rises by about
    g r / (1 − r) (Aitken's δ², for mixtures Böhning et al., Ann. Inst. Stat. Math. 46, 1994). A start is hopeless when
    even twice that would leave its criterion above the lowest one that any start has reached so far, in ``patience``
    iterations running. A start that would have left a plateau later on is given up, too.

    Parameters
    ----------
    criterion : str
        One of `daskgmm.criteria.running_criteria`.
    patience : int
    """

    criterion: str
    patience: int

    def initial(self) -> PrunerState:
        """State before the first pass."""
        return PrunerState()

    def __call__(
        self, state: PrunerState, start: tuple[int, int], bounds: Sequence[float], weight_sum: float, n_free: int
    ) -> tuple[PrunerState, bool]:
        """Tell whether to give up a start; see `fit_state.EarlyStop`."""
        standing = state.standings.get(start, Standing())
        if len(bounds) > standing.n_bounds:  # a step that was rejected tells nothing new
            lowest = min(state.lowest, self._value(bounds[-1], weight_sum, n_free))
            attainable = self._value(bounds[-1] + 2 * remaining_gain(bounds), weight_sum, n_free)
            standing = Standing(len(bounds), standing.n_behind + 1 if attainable > lowest else 0)
            state = PrunerState(lowest, {**state.standings, start: standing})
        return state, standing.n_behind >= self.patience

    def _value(self, bound: float, weight_sum: float, n_free: int) -> float:
        """Criterion of a mixture with that mean log-likelihood."""
        return _value(CRITERIA[self.criterion], Score(bound * weight_sum, weight_sum, 0), n_free)


def remaining_gain(bounds: Sequence[float]) -> float:
    """What bounds that grow by ever less have still before them; infinite where they do not say."""
    if len(bounds) < 3:
        return math.inf
    before, last = bounds[-2] - bounds[-3], bounds[-1] - bounds[-2]
    if last <= 0:
        return 0.0
    return last * last / (before - last) if last < before else math.inf
