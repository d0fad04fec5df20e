"""Fast kernel: two matrix products on quadratic features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .elementwise import PLAIN, ElementwiseBackend, FeatureMap, Scratch, weighted_sum
from .kernel import BlockPlan, Kernel, clip_limit, largest_constant, total_weight
from .mixture import MixtureParameters
from .row_blocks import block_rows, columns
from .statistics import Frame, SufficientStatistics
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]

# Largest relative error of a covariance when an M-step ends in components for which finer arithmetic would have been
# chosen.
_RESOLUTION = {"float32": 1e-2, "float64": 1e-6}

# Factor of `QuadraticKernel.rounding`, in units of the terms' rounding. In 2232 E-steps in single precision
# (docs/numerics.md) the mean log-likelihood erred by at most 0.72 such units, its change from one iteration to the next
# by at most 0.28, and the entropy, on which the bound of variational inference depends, by at most 1.34.
_ROUNDING = 2.0


class QuadraticKernel(Kernel):
    """Two matrix products on quadratic features, in single or double precision."""

    def __init__(
        self,
        parameters: MixtureParameters,
        frame: Frame,
        dtype: type = np.float64,
        backend: ElementwiseBackend = PLAIN,
        *,
        common_known: bool = False,
    ) -> None:
        super().__init__(parameters, frame, backend)
        self.common_known = common_known
        """The second moments of all rows have been computed, and `complete` adds them."""
        self.structure = structure = parameters.structure.for_components(parameters.n_components)
        self.has_common_moments = structure.shared
        self.arithmetic = np.dtype(dtype).name
        self.dtype = np.dtype(dtype)
        self.reference = self.frame.center
        self.n_quadratic = structure.n_quadratic(parameters.n_features)
        self.cholesky = structure.scale_cholesky(parameters.precisions_cholesky, self.frame.scale)
        means = self._framed(parameters.means)
        linear = structure.precision_times(self.cholesky, means)
        # A component of weight zero has the constant minus infinity, which makes NaN of padding in a matrix product.
        self.offset = 0.0 if self.dtype == np.float64 else largest_constant(parameters)
        """Constant that the log-joints leave out."""
        self.constants = np.maximum(parameters.log_constants - self.offset, np.finfo(dtype).min / 4)
        constant = self.constants - 0.5 * (linear * means).sum(axis=1)
        quadratic = np.broadcast_to(structure.quadratic_coefficients(self.cholesky), (len(means), self.n_quadratic))
        self.natural = np.concatenate([quadratic, linear, constant[:, None]], axis=1)
        """Natural parameters Θ, shape (K, P): the log-joint is Θ Φ."""
        self.features = FeatureMap(structure, self.frame.center, self.inverse_scale, clip_limit(dtype))
        self.plan = self.plan_block(structure, parameters.n_components, parameters.n_features, self.dtype, backend)
        # For any structure, |θ_k|·|T(z)| is at most |U_k|² (|z| + |μ_k|)²; a product of P terms errs by √P units.
        self.largest_mean = float(np.sqrt((means**2).sum(axis=1).max()))
        self.row_error = float(np.finfo(self.dtype).eps * len(means[0]) * (self.cholesky**2).sum())

    @staticmethod
    def plan_block(
        structure: CovarianceStructure,
        n_components: int,
        n_features: int,
        dtype: np.dtype[Any],
        backend: ElementwiseBackend,
    ) -> BlockPlan:
        """Plan the kernel's blocks for mixtures of that shape, with products in that dtype."""
        p = structure.for_components(n_components).n_quadratic(n_features) + n_features + 1
        rows = block_rows(backend.block_bytes, dtype.itemsize * (n_components + p))
        return BlockPlan(rows, dtype.itemsize * (2 * n_components * p + (n_components + p) * rows))

    def workspace(self) -> Scratch:
        (k, p), n = self.natural.shape, self.plan.rows
        return Scratch(
            natural=self.natural.astype(self.dtype, copy=False),  # only read
            features=np.empty((p, n), self.dtype),
            joint=np.empty((k, n), self.dtype),
            products=np.empty((k, p), self.dtype),
        )

    def log_joint(self, rows: Array, work: Scratch) -> Array:
        return np.matmul(work.natural, self._features(rows, work), out=columns(work.joint, len(rows)))

    def _features(self, rows: Array, work: Scratch) -> Array:
        features = columns(work.features, len(rows))
        self.backend.fill(self.features, rows, features)
        return features

    def resolves(self, parameters: MixtureParameters) -> bool:
        return rounding_bounds(parameters, self.frame)[self.arithmetic] <= _RESOLUTION[self.arithmetic]

    def rounding(self, moments: MixtureParameters) -> float:
        k, d = self.parameters.means.shape
        variances = moments.structure.marginal_variances(moments.covariances, k, d) / self.frame.scale**2
        # θ · T(z) = c − ½ ‖Uᵀ(z − μ)‖². Every term that cancels in this sum is rounded. The sum of the absolute values,
        # at the root mean square of z, is the mean size of the terms over a component's rows.
        sizes = np.sqrt(self._framed(moments.means) ** 2 + variances) + np.abs(self._framed(self.parameters.means))
        terms = 0.5 * (sizes * self.structure.precision_times(np.abs(self.cholesky), sizes)).sum(axis=1)
        terms += np.abs(self.constants)
        return _ROUNDING * float(np.finfo(self.dtype).eps) * float(moments.weights @ terms)

    def _framed(self, points: Array) -> Array:
        return (points - self.frame.center) / self.frame.scale

    def row_offset(self, work: Scratch, n_rows: int) -> Array | None:
        z = columns(work.features, n_rows)[self.n_quadratic : -1]
        common = self.structure.common_row_quadratic(self.cholesky, z)
        if not self.offset:
            return common
        return np.full(n_rows, self.offset) if common is None else np.add(common, self.offset, dtype=np.float64)

    def row_errors(self, work: Scratch, n_rows: int) -> Array:
        """Bound on the rounding errors of the log-joints of each row of the last block, in nats, shape (B,)."""
        z = columns(work.features, n_rows)[self.n_quadratic : -1]
        row_norm = np.sqrt(np.einsum("db,db->b", z, z)) + self.largest_mean
        return np.asarray(self.row_error * row_norm**2)

    def statistics(self, rows: Array, weights: Array | None, work: Scratch) -> SufficientStatistics:
        structure, d = self.structure, self.parameters.n_features
        sums = np.zeros(self.natural.shape)
        log_density = self.backend.expectation(self.features, rows, weights, work, sums)
        # The products take Θ in their own precision. To first order, the rounding of Θ changes the log-likelihood by
        # its product with the sums; the rounding of each row remains, and averages out over the rows.
        log_likelihood = weighted_sum(log_density, weights) + float(np.vdot(self.natural - work.natural, sums))
        # Σ r log r = Σ r (θ · T − log p) = <Θ, sums> − log-likelihood: no pass over the responsibilities.
        entropy = log_likelihood - float(np.vdot(self.natural, sums))
        second_moments = self._common_moments(rows, weights, work) if structure.shared else sums[:, : self.n_quadratic]
        weight_sum = total_weight(weights, len(rows))
        common_quadratic = 0.0 if self.common_known else structure.common_quadratic(self.cholesky, second_moments)
        return SufficientStatistics(
            self.reference,
            self.frame.scale,
            soft_counts=sums[:, -1],
            first=sums[:, self.n_quadratic : self.n_quadratic + d],
            second_moments=second_moments,
            log_likelihood=log_likelihood + common_quadratic + self.offset * weight_sum,
            entropy=entropy,
            n_rows=len(rows),
            weight_sum=weight_sum,
        )

    def _common_moments(self, rows: Array, weights: Array | None, work: Scratch) -> Array:
        """Second moments of all rows, which no feature carries; zero if they are known."""
        total = self.zero().second_moments
        if self.common_known:
            return total
        for block in self.blocks(len(rows)):
            z = self._features(rows[block], work)[:-1]
            total += self.structure.block_moments(z, None if weights is None else weights[block])
        return total

    def complete(self, statistics: SufficientStatistics, common: Array) -> SufficientStatistics:
        quadratic = self.structure.common_quadratic(self.cholesky, common)
        return replace(statistics, second_moments=common, log_likelihood=statistics.log_likelihood + quadratic)


def rounding_bounds(parameters: MixtureParameters, frame: Frame) -> dict[str, float]:
    """Bound on the rounding error of one log-density of `QuadraticKernel`, in nats, for single and double precision."""
    structure = parameters.structure
    scale = structure.frame_scale(frame.scale)
    means = (parameters.means - frame.center) / scale
    factor = structure.amplification(means, structure.scale_cholesky(parameters.precisions_cholesky, scale))
    return {name: float(np.finfo(name).eps) * factor for name in ("float32", "float64")}
