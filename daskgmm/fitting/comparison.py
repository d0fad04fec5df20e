"""Comparison of mixtures that are fitted together: which of them need another start, or more iterations.

A mixture with more components describes the data at least as well as one with fewer, if its fit finds the maximum. A
fit that ends below a smaller mixture of the same covariance structure gets another start, made from the smaller one.

A fit ends within some distance of its maximum, and a criterion multiplies this distance by twice the number of rows.
Mixtures whose order depends on the distances go on, with a smaller tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.structure import CovarianceStructure
from .em_start import EMStart
from .pruning import criterion_value, remaining_gain

MOST_GROWN = 6
"""Largest number of starts of a mixture that are made from smaller mixtures."""

MOST_TIGHTENED = 3
"""Largest number of times that a tolerance is divided by `TIGHTER`."""

TIGHTER = 10.0

NEGLIGIBLE = 0.1
"""Difference of criteria that decides nothing; differences below 2 are hardly worth a mention (Kass & Raftery 1995)."""

# A likelihood falls if it falls by more than this share of tol, and by more than what is negligible.
_FALL = 0.01

# Factor between the gain that is predicted and the gain that is allowed for.
_SAFETY = 2.0

# Gain left, in last gains, where the gains do not shrink yet: they will shrink by a hundredth each, or faster.
_MOST_GAINS = 100.0


class Standing(NamedTuple):
    """Best start so far of a mixture."""

    structure: CovarianceStructure
    n_components: int
    n_free: int
    """Free parameters."""
    bound: float
    """Mean log-likelihood, in nats."""
    left: float
    """Gain that is left up to the maximum, see `gain_left`."""
    converged: bool
    """Converged, and not stopped: the mixture takes part in comparisons."""


@dataclass(frozen=True)
class Comparison:
    """Rule that decides which mixtures go on after all fits have ended.

    Parameters
    ----------
    criterion : str or None
        One of `daskgmm.criteria.running_criteria`; None if the criterion is not known during a fit: then no mixture
        goes on for the order of the criterion.
    """

    criterion: str | None

    def falling(self, standings: Sequence[Standing | None], tols: Sequence[float], weight_sum: float) -> dict[int, int]:
        """Find the mixtures below a smaller one; return the number of the best smaller one for each."""
        smaller: dict[int, int] = {}
        for number, standing in enumerate(standings):
            if standing is None or not standing.converged:
                continue
            others = {
                place: other.bound
                for place, other in enumerate(standings)
                if other is not None
                and other.structure is standing.structure
                and other.n_components < standing.n_components
            }
            # Weights that sum to one make every difference of a criterion negligible, but not of the likelihood.
            negligible = max(_FALL * tols[number], min(tols[number], negligible_nats(weight_sum)))
            if others and max(others.values()) > standing.bound + negligible:
                smaller[number] = max(others, key=lambda place: others[place])
        return smaller

    def undecided(self, standings: Sequence[Standing | None], weight_sum: float) -> list[int]:
        """Find the mixtures that may still take the lead; the leader, too, if there are any."""
        if self.criterion is None:
            return []
        values, attainable = dict[int, float](), dict[int, float]()
        for number, standing in enumerate(standings):
            if standing is not None:
                values[number] = criterion_value(self.criterion, standing.bound, weight_sum, standing.n_free)
                reach = standing.bound + standing.left
                attainable[number] = criterion_value(self.criterion, reach, weight_sum, standing.n_free)
        if not values:
            return []
        leader = min(values, key=lambda number: values[number])
        rivals = [number for number in attainable if attainable[number] < values[leader] - NEGLIGIBLE]
        return [] if set(rivals) <= {leader} else sorted({leader, *rivals})


def negligible_nats(weight_sum: float) -> float:
    """Difference of mean log-likelihoods that changes criteria by `NEGLIGIBLE`."""
    return NEGLIGIBLE / (2 * weight_sum)


def gain_left(start: EMStart[Any]) -> float:
    """Bound the gain that is left to a start, in nats: twice the gain that accelerator or last gains predict."""
    bounds = start.lower_bounds
    if len(bounds) < 2:
        return 0.0
    last = max(0.0, bounds[-1] - bounds[-2])
    predicted = float("inf") if start.accelerator is None else start.accelerator.gain_left
    if predicted == float("inf"):
        predicted = min(remaining_gain(bounds), _MOST_GAINS * last)
    return _SAFETY * max(0.0, predicted)
