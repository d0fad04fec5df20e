"""Kernel for few components: whitened residuals of all rows under each of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .elementwise import PLAIN, ElementwiseBackend
from .kernel import BlockPlan, Kernel, clip_limit, largest_constant, total_weight
from .mixture import MixtureParameters
from .row_blocks import block_rows
from .statistics import Frame, SufficientStatistics
from .structure import CovarianceStructure
from .whitening import Whitening, WhiteningScratch, WhiteningSums

Array = np.ndarray[Any, np.dtype[Any]]

# Largest relative error of a covariance when an M-step ends in components for which finer arithmetic would have been
# chosen.
_RESOLUTION = 1e-2

# Single precision holds squares of whitened rows at the border of the range only if no component is narrower than this,
# in units of the frame.
_NARROWEST = 1e-4

# Single precision holds units of the frame up to this power of two, and their reciprocals.
_LARGEST_UNIT = 100

# Factor of `WhitenedKernel.rounding`, as in the quadratic kernel.
_ROUNDING = 2.0


class WhitenedKernel(Kernel):
    """Whitened residuals and moments about the means, component by component.

    In double precision the kernel is exact to a few units of rounding for any parameters, as `ResidualKernel` is, but
    computes every pair of row and component. A pair takes D² operations for general matrices, D for diagonal ones, and
    no features are built: with few components this takes less time than products on features, which all components
    share.
    """

    def __init__(
        self,
        parameters: MixtureParameters,
        frame: Frame,
        dtype: type = np.float64,
        backend: ElementwiseBackend = PLAIN,
    ) -> None:
        super().__init__(parameters, frame, backend)
        self.dtype = np.dtype(dtype)
        self.arithmetic = "precise" if self.dtype == np.float64 else self.dtype.name
        self.reference = parameters.means
        self.cholesky = parameters.structure.scale_cholesky(parameters.precisions_cholesky, self.frame.scale)
        structure, (k, d) = parameters.structure, parameters.means.shape
        factors = self.cholesky if structure.has_matrices else structure.whiten(self.cholesky, np.ones((k, d)))
        self.offset = 0.0 if self.dtype == np.float64 else largest_constant(parameters)
        """Constant that the log-joints leave out."""
        self.whitening = Whitening.of(
            parameters.means,
            factors,
            parameters.log_constants - self.offset,
            self.frame.scale,
            self.frame.center,
            clip_limit(self.dtype),
            self.dtype,
        )
        self.plan = self.plan_block(structure, k, d, self.dtype, backend)

    @staticmethod
    def serves(structure: CovarianceStructure) -> bool:
        """Test whether the kernel is made for mixtures of that structure."""
        return not (structure.has_matrices and structure.shared)

    @staticmethod
    def plan_block(
        structure: CovarianceStructure,
        n_components: int,
        n_features: int,
        dtype: np.dtype[Any],
        backend: ElementwiseBackend,
    ) -> BlockPlan:
        """Plan the kernel's blocks for mixtures of that shape, with products in that dtype."""
        columns = 3 * n_features + 2 * n_components
        rows = block_rows(backend.block_bytes, dtype.itemsize * columns)
        n_scatter = n_features ** (2 if structure.has_matrices else 1)
        return BlockPlan(rows, dtype.itemsize * (columns * rows + n_scatter))

    def workspace(self) -> WhiteningScratch:
        (k, d), n = self.parameters.means.shape, self.plan.rows
        shapes = {"z": (d, n), "residual": (d, n), "whitened": (d, n), "joint": (k, n), "logs": (k, n)}
        return WhiteningScratch(
            **{name: np.empty(shape, self.dtype) for name, shape in shapes.items()},
            scatter=np.empty_like(self.whitening.factors[0]),
        )

    def log_joint(self, rows: Array, work: WhiteningScratch) -> Array:
        return self.backend.whitened_log_joints(self.whitening, rows, work)

    def row_offset(self, work: WhiteningScratch, n_rows: int) -> Array | None:
        return np.full(n_rows, self.offset) if self.offset else None

    def resolves(self, parameters: MixtureParameters) -> bool:
        if self.dtype == np.float64:
            return True
        structure, scale = parameters.structure, self.frame.scale
        shifts = (parameters.means - self.parameters.means) / scale
        narrowing = structure.amplification(shifts, structure.scale_cholesky(parameters.precisions_cholesky, scale))
        return float(np.finfo(self.dtype).eps) * narrowing <= _RESOLUTION

    def rounding(self, moments: MixtureParameters) -> float:
        if self.dtype == np.float64:
            return 0.0
        k, d = self.parameters.means.shape
        scale, cholesky = self.frame.scale, self.cholesky
        variances = moments.structure.marginal_variances(moments.covariances, k, d) / scale**2
        # The mean size of the terms of every entry of Uᵀ(x − μ), at the root mean square of x − μ.
        sizes = np.sqrt(((moments.means - self.parameters.means) / scale) ** 2 + variances)
        terms = 0.5 * (sizes * self.parameters.structure.precision_times(np.abs(cholesky), sizes)).sum(axis=1)
        terms += np.abs(self.whitening.constants)
        return _ROUNDING * float(np.finfo(self.dtype).eps) * float(moments.weights @ terms)

    def statistics(self, rows: Array, weights: Array | None, work: WhiteningScratch) -> SufficientStatistics:
        structure, means = self.parameters.structure, self.parameters.means
        total = self.zero()
        second = total.second_moments if structure.has_matrices else np.zeros(means.shape)
        sums = WhiteningSums(total.soft_counts, total.first, second)
        log_likelihood, entropy = self.backend.whitened_expectation(self.whitening, rows, weights, work, sums)
        weight_sum = total_weight(weights, len(rows))
        return SufficientStatistics(
            self.reference,
            self.frame.scale,
            total.soft_counts,
            total.first,
            second if structure.has_matrices else _moments_of_squares(structure, second),
            log_likelihood + self.offset * weight_sum,
            entropy,
            n_rows=len(rows),
            weight_sum=weight_sum,
        )


def _moments_of_squares(structure: CovarianceStructure, squares: Array) -> Array:
    """Second moments, (L, P), from the squares of every feature in every component, (K, D)."""
    k, d = squares.shape
    features, _, moments = structure.moment_terms(d)
    sums = np.zeros((k, structure.n_moments(d)))
    np.add.at(sums.T, moments, squares[:, features].T)
    return sums.sum(axis=0, keepdims=True) if structure.shared else sums


def whitened_bound(parameters: MixtureParameters, frame: Frame) -> float:
    """Bound on the rounding error of one log-density of `WhitenedKernel` in single precision, in nats.

    Whitened residuals err in proportion to the root of a matrix's condition number; the sum of their squares and the
    difference of two constants err in proportion to their own sizes, which count with many features. The covariances of
    the next M-step err in proportion to the condition number itself: a tenth of this error counts here, because
    covariances may err ten times as much.
    """
    structure = parameters.structure
    scale = structure.frame_scale(frame.scale)
    factors = structure.scale_cholesky(parameters.precisions_cholesky, scale)
    if np.abs(factors).max() > 1 / _NARROWEST or np.abs(np.log2(scale)).max() > _LARGEST_UNIT:
        return math.inf
    d = parameters.n_features
    condition = structure.amplification(np.zeros((len(factors), d)), factors) / 9 if structure.has_matrices else 1.0
    size = 3 + math.sqrt(d)
    constants = parameters.log_constants[np.isfinite(parameters.log_constants)] - largest_constant(parameters)
    sums = (1 + math.sqrt(d) / 8) * size**2 / 2 + float(np.abs(constants).max())
    distances = 6 * math.sqrt(condition) * size + sums
    return float(np.finfo(np.float32).eps) * max(distances, 0.9 * condition)
