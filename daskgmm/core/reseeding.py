"""Components that begin anew: where one has collapsed or is empty, it takes half of the widest of the others.

The half is that of a Gaussian on one side of its mean. Cut across the direction v, the halves of N(μ, Σ) have the means
μ ± δ and the covariance Σ − δδᵀ with

    δ = √(2/π) Σv / √(vᵀΣv)

so the mixture keeps its mean and its covariance (a split move as in Richardson & Green 1997, with the moments of the
truncated normal distribution). Structures that share a covariance, or a variance, take of δδᵀ what they can hold.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import IllDefinedCovarianceError
from .mixture import MixtureParameters
from .statistics import SufficientStatistics
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Of one row's mean weight. Soft counts carry a floor of 1e-7 of this (`SufficientStatistics.central_moments`): of a
# component with less, mean and covariance begin to be those of the floor, and no row notices it.
_EMPTY = math.sqrt(np.finfo(np.float64).eps)

# A component of fewer rows, for each feature, is not split: its halves would be the next to collapse.
_ROWS_PER_FEATURE = 2

# How far the direction of a cut leans from the longest axis to one that is no axis of anything. A round component has
# no longest axis, and across one that the data are symmetric about both halves would stay alike for ever.
_LEAN = 0.1

_HALF = math.sqrt(2 / math.pi)


def empty_components(statistics: SufficientStatistics) -> tuple[int, ...]:
    """Components to which no row belongs, not even by a small part."""
    lightest = _EMPTY * statistics.weight_sum / statistics.n_rows
    return tuple(int(k) for k in np.flatnonzero(statistics.soft_counts < lightest))


def reseed(
    structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float, lost: tuple[int, ...]
) -> MixtureParameters | None:
    """The M-step, in which each lost component takes half of the widest of those that are not, one after the other.

    The widest has the largest product of soft count and variance, over all features in the data's own units: what
    k-means would gain most from.

    Parameters
    ----------
    structure : CovarianceStructure
    statistics : SufficientStatistics
    reg_covar : float
        Added to the variances, in squared units of the data.
    lost : tuple of int

    Returns
    -------
    MixtureParameters or None
        None where it would not help: no component has rows for two.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of what is lost
        soft_counts, offsets, covariances = statistics.central_moments(structure, reg_covar)
    fewest = _fewest(statistics)
    reference = np.broadcast_to(statistics.reference, offsets.shape)
    missing = list(lost)
    scale = _deviation(structure, soft_counts, reference + offsets, covariances, missing)
    for component in lost:
        donor = _widest(structure, soft_counts, covariances, scale, missing)
        if donor is None or soft_counts[donor] < fewest:
            return None
        missing.remove(component)
        soft_counts[donor] /= 2
        each = np.arange(len(soft_counts))
        each[component] = donor
        soft_counts, reference, offsets = soft_counts[each], reference[each], offsets[each]
        covariances = structure.take(covariances, each)
        shifts = np.zeros_like(offsets)
        shifts[component] = _half_width(structure, covariances, donor, scale)
        shifts[donor] = -shifts[component]
        offsets = offsets + shifts
        covariances = covariances - _between(structure, shifts, soft_counts)
    try:
        return MixtureParameters.from_covariances(
            structure, soft_counts / soft_counts.sum(), reference + offsets, covariances
        )
    except IllDefinedCovarianceError:
        return None


def _between(structure: CovarianceStructure, shifts: Array, soft_counts: Array) -> Array:
    """Covariances that components have because they lie ``shifts`` (K, D) off where they are thought to lie."""
    return structure.multiply(structure.outer_products(shifts, soft_counts), 1 / structure.matrix_counts(soft_counts))


def _fewest(statistics: SufficientStatistics) -> float:
    """Soft count of the smallest component that may be split."""
    n_features = len(statistics.scale)
    return _ROWS_PER_FEATURE * (n_features + 1) * statistics.weight_sum / statistics.n_rows


def _deviation(
    structure: CovarianceStructure, soft_counts: Array, means: Array, covariances: Array, missing: list[int]
) -> Array:
    """Standard deviation of every feature in the mixture of those that are not missing; 1 where there is none."""
    kept = np.setdiff1d(np.arange(len(soft_counts)), missing)
    if not len(kept):
        return np.ones(means.shape[1])
    weights = soft_counts[kept] / soft_counts[kept].sum()
    within = weights @ structure.marginal_variances(covariances, *means.shape)[kept]
    offsets = means[kept] - means[kept[0]]
    between = weights @ (offsets - weights @ offsets) ** 2
    with np.errstate(invalid="ignore"):
        return np.where(within + between > 0, np.sqrt(within + between), 1.0)


def _widest(
    structure: CovarianceStructure, soft_counts: Array, covariances: Array, scale: Array, missing: list[int]
) -> int | None:
    variances = structure.marginal_variances(covariances, len(soft_counts), len(scale))
    width = soft_counts * (variances / scale**2).sum(axis=1)
    width[missing] = -np.inf
    width[~np.isfinite(width)] = -np.inf
    widest = int(width.argmax())
    return widest if width[widest] > 0 else None


def _half_width(structure: CovarianceStructure, covariances: Array, component: int, scale: Array) -> Array:
    """δ of the cut across the longest axis, in the units of the data, shape (D,)."""
    root = structure.correlate(covariances, component, np.eye(len(scale))) / scale
    covariance = root.T @ root
    askew = 1 + 1 / np.arange(1.0, len(scale) + 1)
    askew *= math.sqrt(_LEAN * np.trace(covariance) / len(scale)) / np.linalg.norm(askew)
    direction = np.linalg.eigh(covariance + np.outer(askew, askew))[1][:, -1]
    along = covariance @ direction
    return np.asarray(_HALF * scale * along / math.sqrt(direction @ along))
