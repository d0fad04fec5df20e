"""Information criteria of scores, and the contest of mixtures that are still running."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..criteria import CRITERIA, Criterion
from .folds import Score


def information_criteria(score: Score, n_free: int) -> dict[str, float]:
    """All criteria that the score suffices for: some need its entropy."""
    found = {name: _value(criterion, score, n_free) for name, criterion in CRITERIA.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _value(criterion: Criterion, score: Score, n_free: int) -> float:
    return criterion.formula(score.log_likelihood, n_free, score.weight_sum, score.entropy)


class Contest:
    """Tells which of several mixtures that climb together can no longer have the lowest criterion: a heuristic.

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

    def __init__(self, criterion: str, patience: int) -> None:
        self._criterion, self.patience = CRITERIA[criterion], patience
        self._lowest = math.inf

    def entrant(self, n_free: int) -> Entrant:
        """What a `Candidate` with so many free parameters asks whether a start is hopeless."""
        return Entrant(self, n_free)

    def lowest(self, value: float = math.inf) -> float:
        """The lowest criterion so far, ``value`` included."""
        self._lowest = min(self._lowest, value)
        return self._lowest

    def value(self, bound: float, weight_sum: float, n_free: int) -> float:
        """Criterion of a mixture with that mean log-likelihood."""
        return _value(self._criterion, Score(bound * weight_sum, weight_sum, 0), n_free)


class Entrant:
    """Judges the starts of one mixture in a `Contest`."""

    def __init__(self, contest: Contest, n_free: int) -> None:
        self._contest, self._n_free = contest, n_free
        self._seen: dict[int, int] = {}
        self._behind: dict[int, int] = {}

    def __call__(self, start: int, bounds: Sequence[float], weight_sum: float) -> bool:
        """Whether to give up a start."""
        if len(bounds) > self._seen.get(start, 0):  # a step that was rejected tells nothing new
            self._seen[start] = len(bounds)
            lowest = self._contest.lowest(self._contest.value(bounds[-1], weight_sum, self._n_free))
            reach = self._contest.value(bounds[-1] + 2 * remaining_gain(bounds), weight_sum, self._n_free)
            self._behind[start] = self._behind.get(start, 0) + 1 if reach > lowest else 0
        return self._behind[start] >= self._contest.patience

    def snapshot(self) -> dict[str, Any]:
        """What it remembers, for `restore`; what JSON can say."""
        return {
            "lowest": self._contest.lowest(),
            "starts": [[start, seen, self._behind[start]] for start, seen in self._seen.items()],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Remember what another one did."""
        self._contest.lowest(float(snapshot["lowest"]))
        self._seen = {int(start): int(seen) for start, seen, _ in snapshot["starts"]}
        self._behind = {int(start): int(behind) for start, _, behind in snapshot["starts"]}


def remaining_gain(bounds: Sequence[float]) -> float:
    """What bounds that grow by ever less have still before them; infinite where they do not say."""
    if len(bounds) < 3:
        return math.inf
    before, last = bounds[-2] - bounds[-3], bounds[-1] - bounds[-2]
    if last <= 0:
        return 0.0
    return last * last / (before - last) if last < before else math.inf
