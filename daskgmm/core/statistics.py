"""Sufficient statistics of a mixture: a commutative monoid of moments about a reference point.

For responsibilities r_nk (times sample weights) and a reference c, in units of one scale s per feature,

    n_k = Σ r,   s_k = Σ r (x − c)/s,   S_k = Σ r [(x − c)/s] [(x − c)/s]ᵀ

The statistics of two sets of rows are joined by adding arrays; an M-step needs nothing else. Moments about a point
inside the data instead of the origin cost nothing, and keep the digits that a large offset would cancel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Added to every soft count, as scikit-learn does, so that an empty component keeps a finite mean; in units of a row's
# mean weight, so that only the ratios of sample weights matter.
_COUNT_FLOOR = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Frame:
    """Reference point and units of the fast kernel's standardised data: z = (x − center) / scale."""

    center: Array
    """Shape (D,), in the units of the data."""

    scale: Array
    """Shape (D,), in the units of the data; powers of two, so that division by them does not round."""

    @classmethod
    def of(cls, mean: Array, deviation: Array) -> Frame:
        """Make the frame of data with this mean and standard deviation; features that do not vary keep their unit."""
        usable = np.isfinite(deviation) & (deviation > 0)
        exponent = np.frexp(np.where(usable, deviation, 1.0))[1]
        # The square of the scale and its reciprocal must be finite too.
        return cls(np.asarray(mean, np.float64), np.ldexp(1.0, np.clip(exponent, -500, 500)))


_MOMENTS = ("soft_counts", "first", "second_moments")


@dataclass(frozen=True)
class SufficientStatistics:
    """Sufficient statistics of some rows under one E-step. ``+`` joins the statistics of two sets of rows.

    K is the number of components, D the number of features. All accumulation is in double precision.
    """

    reference: Array
    """Point that the moments are about, in the units of the data, (D,); or one point for each component, (K, D)."""

    scale: Array
    """Unit of every feature, shape (D,)."""

    soft_counts: Array
    """Weighted number n_k of rows of each component, shape (K,)."""

    first: Array
    """Weighted sums s_k about the reference, shape (K, D)."""

    second_moments: Array
    """Weighted outer products S_k about the reference, in the shape of the structure's `moments_shape`."""

    log_likelihood: float
    """Σ w log p(x)."""

    entropy: float
    """Entropy −Σ w Σ_k r log r of the responsibilities, in nats, for the ICL criterion."""

    n_rows: int
    """Rows seen, whatever their weight."""

    weight_sum: float
    """Σ w; the number of rows if there are no sample weights."""

    @classmethod
    def zero(
        cls, structure: CovarianceStructure, reference: Array, scale: Array, n_components: int
    ) -> SufficientStatistics:
        """Neutral element of ``+``: the statistics of no rows."""
        n_features = len(scale)
        return cls(
            reference,
            scale,
            np.zeros(n_components),
            np.zeros((n_components, n_features)),
            np.zeros(structure.moments_shape(n_components, n_features)),
            0.0,
            0.0,
            0,
            0.0,
        )

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        if not (np.array_equal(self.reference, other.reference) and np.array_equal(self.scale, other.scale)):
            raise ValueError("statistics about different reference points or in different units do not add")
        return replace(
            self,
            soft_counts=self.soft_counts + other.soft_counts,
            first=self.first + other.first,
            second_moments=self.second_moments + other.second_moments,
            log_likelihood=self.log_likelihood + other.log_likelihood,
            entropy=self.entropy + other.entropy,
            n_rows=self.n_rows + other.n_rows,
            weight_sum=self.weight_sum + other.weight_sum,
        )

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood per unit of weight, in nats, which EM's stopping rule compares."""
        return self.log_likelihood / self.weight_sum

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return self.soft_counts.nbytes + self.first.nbytes + self.second_moments.nbytes

    def times(self, factor: float) -> SufficientStatistics:
        """Multiply the weight of every row by ``factor``."""
        return replace(
            self,
            soft_counts=self.soft_counts * factor,
            first=self.first * factor,
            second_moments=self.second_moments * factor,
            log_likelihood=self.log_likelihood * factor,
            entropy=self.entropy * factor,
            weight_sum=self.weight_sum * factor,
        )

    def about(self, structure: CovarianceStructure, reference: Array) -> SufficientStatistics:
        """Move the reference point of the moments.

        Parameters
        ----------
        structure : CovarianceStructure
        reference : array of shape (D,) or (K, D)
            Point in the units of the data, or one for each component.
        """
        moved = (self.reference - reference) / self.scale + np.zeros_like(self.first)
        counts = self.soft_counts[:, None]
        second = structure.shifted_moments(self.second_moments, self.soft_counts, self.first, moved)
        return replace(self, reference=reference, first=self.first + counts * moved, second_moments=second)

    def padded(self, structure: CovarianceStructure, n_components: int) -> SufficientStatistics:
        """Add components without rows until there are ``n_components``."""
        empty = n_components - len(self.soft_counts)
        reference = self.reference
        if reference.ndim > 1:
            reference = np.concatenate([reference, np.repeat(reference.mean(axis=0, keepdims=True), empty, axis=0)])
        zero = SufficientStatistics.zero(structure, reference, self.scale, n_components)
        zero.soft_counts[: len(self.soft_counts)] = self.soft_counts
        zero.first[: len(self.first)] = self.first
        zero.second_moments[: len(self.second_moments)] = self.second_moments
        return replace(self, reference=reference, **{name: getattr(zero, name) for name in _MOMENTS})

    def central_moments(self, structure: CovarianceStructure, ridge: float) -> tuple[Array, Array, Array]:
        """Compute soft counts, and the components' empirical means and covariances.

        Parameters
        ----------
        structure : CovarianceStructure
        ridge : float
            Number added to every variance, in squared units of the data.

        Returns
        -------
        soft_counts : array of shape (K,)
            Positive also for an empty component.
        offsets : array of shape (K, D)
            Empirical means minus the reference, in the units of the data.
        covariances : array
            Array in the units of the data and the shape of the structure's `covariance_shape`. Not checked: factoring
            them finds collapsed components.
        """
        mean_weight = self.weight_sum / self.n_rows if self.weight_sum > 0 else 1.0
        soft_counts = self.soft_counts + _COUNT_FLOOR * mean_weight
        offsets = self.first / soft_counts[:, None]
        covariances = structure.central_covariances(self.second_moments, soft_counts, offsets)
        covariances = structure.add_ridge(structure.unscale_covariances(covariances, self.scale), ridge)
        return soft_counts, self.scale * offsets, covariances


def statistics_of_responsibilities(
    structure: CovarianceStructure, rows: Array, responsibilities: Array, frame: Frame
) -> SufficientStatistics:
    """Compute statistics of rows in memory from given responsibilities, with moments about each component's mean.

    Parameters
    ----------
    structure : CovarianceStructure
    rows : array of shape (n, D)
    responsibilities : array of shape (n, K)
        Responsibilities times the sample weights, if there are any. They need not sum to one over the components.
    frame : Frame

    Returns
    -------
    SufficientStatistics
        ``log_likelihood`` and ``entropy`` are zero: no density was evaluated.
    """
    n_components = responsibilities.shape[1]
    scale = structure.frame_scale(frame.scale)
    offsets = (rows - frame.center) / scale
    counts = responsibilities.sum(axis=0, dtype=np.float64)
    means = frame.center + scale * (responsibilities.T @ offsets) / np.maximum(counts, np.finfo(float).tiny)[:, None]
    statistics = SufficientStatistics.zero(structure, means, scale, n_components)
    for k in range(n_components):
        members = np.flatnonzero(responsibilities[:, k])  # one-hot responsibilities leave few rows to each component
        weights = np.ascontiguousarray(responsibilities[members, k], dtype=np.float64)
        residual = np.ascontiguousarray(((rows[members] - means[k]) / scale).T)
        statistics.first[k] = residual @ weights
        structure.add_scatter(statistics.second_moments, k, residual, weights, np.empty_like(residual))
    total = float(counts.sum())
    return replace(statistics, soft_counts=counts, n_rows=len(rows), weight_sum=total)
