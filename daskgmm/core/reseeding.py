"""Reseeding of components: a collapsed or empty component takes half of the widest component.

A half is the part of a Gaussian on one side of its mean. Cut across the direction v, the halves of N(μ, Σ) have the
means μ ± δ and the covariance Σ − δδᵀ with

    δ = √(2/π) Σv / √(vᵀΣv)

so the mixture keeps its mean and its covariance (a split move as in Richardson & Green 1997, with the moments of the
truncated normal distribution). Structures that share a covariance, or a variance, average δδᵀ over what is shared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import IllDefinedCovarianceError
from .mixture import MixtureParameters
from .splitting import HALF, between
from .statistics import SufficientStatistics
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Largest soft count of an empty component, in mean weights of a row. `SufficientStatistics.central_moments` adds a
# floor of 1e-7 of this to soft counts: in lighter components the floor begins to distort mean and covariance, and the
# density of no row depends on them.
_EMPTY = math.sqrt(np.finfo(np.float64).eps)

# A component of fewer rows per feature is not split: its halves would be the next components to collapse.
_ROWS_PER_FEATURE = 2

# Variance that is added along a fixed oblique direction before the longest axis is taken, relative to the mean variance
# of the features. A round component has no longest axis, and halves that mirror each other in symmetric data would stay
# alike for ever.
_LEAN = 0.1


def empty_components(statistics: SufficientStatistics) -> tuple[int, ...]:
    """Find components to which no row belongs, not even by a small part."""
    lightest = _EMPTY * statistics.weight_sum / statistics.n_rows
    return tuple(int(k) for k in np.flatnonzero(statistics.soft_counts < lightest))


def reseed(
    structure: CovarianceStructure, statistics: SufficientStatistics, reg_covar: float, lost: tuple[int, ...]
) -> MixtureParameters | None:
    """Run the M-step, in which each lost component, one after the other, takes half of the widest component.

    The widest component has the largest product of soft count and variance, summed over the features in units of the
    data's standard deviations: k-means would gain most from its split.

    Parameters
    ----------
    structure : CovarianceStructure
    statistics : SufficientStatistics
    reg_covar : float
        Number added to the variances, in squared units of the data.
    lost : tuple of int
        Components that have collapsed or are empty.

    Returns
    -------
    MixtureParameters or None
        None if no component has enough rows for two, or a covariance is not positive definite.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # in lost components
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
        covariances = covariances - between(structure, shifts, soft_counts)
    try:
        return MixtureParameters.from_covariances(
            structure, soft_counts / soft_counts.sum(), reference + offsets, covariances
        )
    except IllDefinedCovarianceError:
        return None


def _fewest(statistics: SufficientStatistics) -> float:
    """Soft count of the smallest component that may be split."""
    n_features = len(statistics.scale)
    return _ROWS_PER_FEATURE * (n_features + 1) * statistics.weight_sum / statistics.n_rows


def _deviation(
    structure: CovarianceStructure, soft_counts: Array, means: Array, covariances: Array, missing: list[int]
) -> Array:
    """Standard deviation of every feature in the mixture of components that are not missing; 1 instead of 0."""
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
    """Shift δ of the halves of a cut across the longest axis, in the units of the data, shape (D,)."""
    root = structure.correlate(covariances, component, np.eye(len(scale))) / scale
    covariance = root.T @ root
    askew = 1 + 1 / np.arange(1.0, len(scale) + 1)
    askew *= math.sqrt(_LEAN * np.trace(covariance) / len(scale)) / np.linalg.norm(askew)
    direction = np.linalg.eigh(covariance + np.outer(askew, askew))[1][:, -1]
    along = covariance @ direction
    return np.asarray(HALF * scale * along / math.sqrt(direction @ along))
