"""The E-step of a block of rows: log-densities, responsibilities, sufficient statistics.

Two kernels compute the same thing:

`QuadraticKernel`
    the fast one. Features Φ = T(z) of a block, z = (x − c) / s, as rows; log-joint Θ Φ; log-sum-exp by column in
    place; statistics R Φᵀ. Two matrix products and no array of rows × components × features.
`ResidualKernel`
    the precise twin. Whitened residuals Uᵀ(x − μ_k) of one component at a time, and moments about the current means.

θ · T(z) cancels when a component is tight compared with its distance from c. The loss is predictable from the
parameters alone (`CovarianceStructure.amplification`), so `choose_kernel` takes the cheapest arithmetic whose bound is
small enough.

Both read rows of any real dtype and accumulate in double precision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .mixture import MixtureParameters
from .statistics import Frame, SufficientStatistics

Array = np.ndarray[Any, np.dtype[Any]]

# Largest admissible error of one log-density, in nats, by the precision of the products.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-9}

# Relative error that a covariance may have when an M-step ends in components that would have asked for finer
# arithmetic.
_RESOLUTION = {"float32": 1e-2, "float64": 1e-6}

# A block's arrays should stay in a core's own cache, and yet be long enough for the matrix products. The precise twin
# makes more and smaller calls to NumPy, so its blocks are for the shared cache.
_BLOCK_BYTES = 1 << 20
_PRECISE_BLOCK_BYTES = 8 << 20
_SHORTEST_BLOCK, _LONGEST_BLOCK = 256, 8192

# A responsibility below this is zero to the precise twin: beside a whole row it is ten digits beyond rounding.
_NEGLIGIBLE = 1e-26

# A row with more bytes of features than this takes longer than whitening it, which needs none, for each component.
_MOST_FEATURE_BYTES = 24_000


class Kernel(ABC):
    """The E-step for given parameters, prepared once and applied to many blocks.

    A kernel is immutable and may be shared between threads; what one task writes to is its workspace.
    """

    arithmetic: str
    """``"float32"``, ``"float64"`` or ``"precise"``."""

    reference: Array
    """Point(s) that the statistics' moments are about."""

    block_rows: int
    """Rows of a block."""

    def __init__(self, parameters: MixtureParameters, frame: Frame) -> None:
        self.parameters = parameters
        self.frame = Frame(frame.center, parameters.structure.frame_scale(frame.scale))
        self.inverse_scale = 1.0 / self.frame.scale[:, None]  # exact: scales are powers of two

    def resolves(self, parameters: MixtureParameters) -> bool:
        """Whether moments computed in this arithmetic are fine enough to have led to ``parameters``.

        An M-step can end in components much tighter than those that chose the kernel: then its covariances are
        rounding.
        """
        return True

    @abstractmethod
    def workspace(self) -> Any:
        """Scratch arrays for one task."""

    @abstractmethod
    def log_joint(self, rows: Array, work: Any) -> Array:
        """Logarithm of w_k N(x_b; μ_k, Σ_k) of one block less `row_offset`, shape (K, B): a view into the workspace."""

    @abstractmethod
    def row_offset(self, work: Any, n_rows: int) -> Array | None:
        """What `log_joint` has just left out, the same for every component, shape (B,); None for nothing."""

    @abstractmethod
    def statistics(self, rows: Array, weights: Array | None, work: Any) -> SufficientStatistics:
        """Sufficient statistics of some rows.

        Parameters
        ----------
        rows : array of shape (n, D), any real dtype
        weights : array of shape (n,), float64, or None
            Sample weights.
        work : workspace
        """

    def zero(self) -> SufficientStatistics:
        """Statistics of no rows."""
        p = self.parameters
        return SufficientStatistics.zero(p.structure, self.reference, self.frame.scale, p.n_components)

    def blocks(self, n_rows: int) -> Iterator[slice]:
        """Slices of at most `block_rows` rows."""
        step = self.block_rows
        return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))

    # ---- results for each row

    def log_density(self, rows: Array, work: Any = None) -> Array:
        """Log p(x) of every row, in nats, shape (n,)."""
        work = work or self.workspace()
        result = np.empty(len(rows))
        for block in self.blocks(len(rows)):
            joint = self.log_joint(rows[block], work)
            peak, log_total = normalise(joint)
            np.add(peak, log_total, out=result[block])
            offset = self.row_offset(work, joint.shape[1])
            if offset is not None:
                result[block] += offset
        return result

    def responsibilities(self, rows: Array, work: Any = None) -> Array:
        """Posterior probability of every component, shape (n, K)."""
        work = work or self.workspace()
        result = np.empty((len(rows), self.parameters.n_components))
        for block in self.blocks(len(rows)):
            joint = self.log_joint(rows[block], work)
            normalise(joint)
            result[block] = (joint / joint.sum(axis=0)).T
        return result

    def labels(self, rows: Array, work: Any = None) -> Array:
        """Most probable component of every row, shape (n,)."""
        work = work or self.workspace()
        result = np.empty(len(rows), np.int64)
        for block in self.blocks(len(rows)):
            result[block] = self.log_joint(rows[block], work).argmax(axis=0)
        return result


class QuadraticKernel(Kernel):
    """Two matrix products on quadratic features, in single or double precision."""

    def __init__(self, parameters: MixtureParameters, frame: Frame, dtype: type = np.float64) -> None:
        super().__init__(parameters, frame)
        self.arithmetic = np.dtype(dtype).name
        self.dtype = np.dtype(dtype)
        self.reference = self.frame.center
        structure = parameters.structure
        self.n_quadratic = structure.n_quadratic(parameters.n_features)
        self.cholesky = structure.scale_cholesky(parameters.precisions_cholesky, self.frame.scale)
        means = (parameters.means - self.frame.center) / self.frame.scale
        linear = structure.precision_times(self.cholesky, means)
        # Minus infinity, of a component of weight zero, is no number for a matrix product: it makes NaN of padding.
        constants = np.maximum(parameters.log_constants, np.finfo(dtype).min / 4)
        constant = constants - 0.5 * (linear * means).sum(axis=1)
        quadratic = np.broadcast_to(structure.quadratic_coefficients(self.cholesky), (len(means), self.n_quadratic))
        self.natural = np.concatenate([quadratic, linear, constant[:, None]], axis=1)
        """Natural parameters Θ, shape (K, P): the log-joint is Θ Φ."""
        self.block_rows = _block_rows(_BLOCK_BYTES, 8 * len(means[0]) + self.dtype.itemsize * sum(self.natural.shape))
        # Whatever the structure, |θ_k|·|T(z)| is at most |U_k|² (|z| + |μ_k|)²; a product of P terms errs by √P units.
        self.largest_mean = float(np.sqrt((means**2).sum(axis=1).max()))
        self.row_error = float(np.finfo(self.dtype).eps * len(means[0]) * (self.cholesky**2).sum())

    def workspace(self) -> _QuadraticWorkspace:
        (k, p), n, d = self.natural.shape, self.block_rows, self.parameters.n_features
        return _QuadraticWorkspace(
            natural=self.natural.astype(self.dtype),
            exact=np.empty((d, n)),
            features=np.ones((p, n), self.dtype),
            joint=np.empty((k, n), self.dtype),
            products=np.empty((k, p), self.dtype),
        )

    def log_joint(self, rows: Array, work: _QuadraticWorkspace) -> Array:
        return np.matmul(work.natural, self._features(rows, work), out=work.joint[:, : len(rows)])

    def _features(self, rows: Array, work: _QuadraticWorkspace) -> Array:
        features = work.features[:, : len(rows)]
        z, exact = features[self.n_quadratic : -1], work.exact[:, : len(rows)]
        # The difference is taken in double precision whatever the dtype: a large offset must not round the rows.
        np.subtract(rows.T, self.frame.center[:, None], out=exact)
        exact *= self.inverse_scale
        np.clip(exact, -_reach(self.dtype), _reach(self.dtype), out=z, casting="same_kind")
        self.parameters.structure.fill_quadratic(z, features[: self.n_quadratic])
        return features

    def resolves(self, parameters: MixtureParameters) -> bool:
        return rounding_bounds(parameters, self.frame)[self.arithmetic] <= _RESOLUTION[self.arithmetic]

    def row_offset(self, work: _QuadraticWorkspace, n_rows: int) -> Array | None:
        z = work.features[self.n_quadratic : -1, :n_rows]
        return self.parameters.structure.common_row_quadratic(self.cholesky, z)

    def row_errors(self, work: _QuadraticWorkspace, n_rows: int) -> Array:
        """Bound on the rounding errors of the log-joints of each row just seen, in nats, shape (B,)."""
        z = work.features[self.n_quadratic : -1, :n_rows]
        reach = np.sqrt(np.einsum("db,db->b", z, z)) + self.largest_mean
        return np.asarray(self.row_error * reach**2)

    def statistics(self, rows: Array, weights: Array | None, work: _QuadraticWorkspace) -> SufficientStatistics:
        structure, d = self.parameters.structure, self.parameters.n_features
        sums, common = np.zeros(self.natural.shape), self.zero().second
        log_likelihood = 0.0
        for block in self.blocks(len(rows)):
            block_weights = None if weights is None else weights[block]
            joint = self.log_joint(rows[block], work)
            peak, log_total = normalise(joint)
            log_likelihood += _weighted_sum(peak.astype(np.float64) + log_total, block_weights)
            factor = np.exp(-log_total) if block_weights is None else np.exp(-log_total) * block_weights
            joint *= factor.astype(self.dtype, copy=False)
            features = work.features[:, : joint.shape[1]]
            sums += np.matmul(joint, features.T, out=work.products)
            second = structure.common_second(features[self.n_quadratic : -1], block_weights)
            if second is not None:
                common += second
        # Σ r log r = Σ r (θ · T − log p) = <Θ, sums> − log-likelihood: no pass over the responsibilities.
        entropy = log_likelihood - float(np.vdot(self.natural, sums))
        second = sums[:, : self.n_quadratic].reshape(common.shape) if self.n_quadratic else common
        return SufficientStatistics(
            self.reference,
            self.frame.scale,
            soft_counts=sums[:, -1],
            first=sums[:, self.n_quadratic : self.n_quadratic + d],
            second=second,
            log_likelihood=log_likelihood + structure.common_quadratic(self.cholesky, second),
            entropy=entropy,
            n_rows=len(rows),
            weight_sum=_weighted_sum(np.ones(len(rows)), weights),
        )


@dataclass
class _QuadraticWorkspace:
    natural: Array  # Θ in the dtype of the products, (K, P)
    exact: Array  # x − c, (D, B)
    features: Array  # Φ, (P, B); the last row stays one
    joint: Array  # (K, B)
    products: Array  # (K, P)


class ResidualKernel(Kernel):
    """Whitened residuals, component by component: exact to a few units of rounding for any parameters.

    Most components are out of the question for most rows. Where there are many, a `QuadraticKernel` finds out which
    ones: only the pairs of row and component that matter, or that its rounding leaves in doubt, are computed again.
    """

    arithmetic = "precise"

    def __init__(self, parameters: MixtureParameters, frame: Frame) -> None:
        super().__init__(parameters, frame)
        structure = parameters.structure
        self.reference = parameters.means
        self.centers = parameters.means[:, :, None] / self.frame.scale[:, None]  # exact: scales are powers of two
        center = self.frame.center[:, None] / self.frame.scale[:, None]
        self.lowest, self.highest = center - _reach(np.float64), center + _reach(np.float64)
        self.cholesky = structure.scale_cholesky(parameters.precisions_cholesky, self.frame.scale)
        self.constants = parameters.log_constants
        # Features are built once for a row, residuals once for each component: with eight they cost about the same.
        worth = structure.n_quadratic(parameters.n_features) < (parameters.n_components - 8) * parameters.n_features
        self.screen = QuadraticKernel(parameters, frame) if worth else None
        """Says which components a row may belong to; None where that would cost more than it saves."""
        self.block_rows = _block_rows(_PRECISE_BLOCK_BYTES, 8 * (3 * parameters.n_features + parameters.n_components))

    def workspace(self) -> _ResidualWorkspace:
        d, n = self.parameters.n_features, self.block_rows
        screen = None if self.screen is None else self.screen.workspace()
        joint = np.empty((self.parameters.n_components, n))
        return _ResidualWorkspace(screen, joint, np.empty(d * n), np.empty(d * n), np.empty(d * n))

    def log_joint(self, rows: Array, work: _ResidualWorkspace) -> Array:
        z = self._part(work.z, len(rows))
        np.multiply(rows.T, self.inverse_scale, out=z)
        np.clip(z, self.lowest, self.highest, out=z)
        joint = work.joint[:, : len(rows)]
        near = None if self.screen is None else self._near(self.screen, rows, joint, work.screen)
        for k, constant in enumerate(self.constants):
            members = slice(None) if near is None else _members(near[k])
            residual, scratch = self._residual(z, k, members, work)
            distance = self.parameters.structure.mahalanobis(self.cholesky, k, residual, scratch)
            distance *= -0.5
            distance += constant
            joint[k, members] = distance
        return joint

    def _near(self, screen: QuadraticKernel, rows: Array, joint: Array, work: Any) -> Array:
        """Which components may have a responsibility that is not negligible, (K, B); writes about right log-joints."""
        doubt = np.empty(len(rows))
        for block in screen.blocks(len(rows)):
            joint[:, block] = screen.log_joint(rows[block], work)
            n_rows = joint[:, block].shape[1]
            doubt[block] = 2 * screen.row_errors(work, n_rows)
            offset = screen.row_offset(work, n_rows)
            if offset is not None:
                joint[:, block] += offset
        return np.greater_equal(joint, joint.max(axis=0) + (math.log(_NEGLIGIBLE) - doubt))

    def _residual(
        self, z: Array, component: int, members: Array | slice, work: _ResidualWorkspace
    ) -> tuple[Array, Array]:
        """Residuals z − μ_k of some rows, (D, members), and scratch of the same shape."""
        n_rows = z.shape[1] if isinstance(members, slice) else len(members)
        residual, scratch = self._part(work.residual, n_rows), self._part(work.scratch, n_rows)
        if isinstance(members, slice):
            np.subtract(z, self.centers[component], out=residual)
        else:
            np.take(z, members, axis=1, out=residual, mode="clip")  # "raise" would buffer the output
            residual -= self.centers[component]
        return residual, scratch

    def _part(self, flat: Array, n_rows: int) -> Array:
        n_features = self.parameters.n_features
        return flat[: n_features * n_rows].reshape(n_features, n_rows)

    def row_offset(self, work: _ResidualWorkspace, n_rows: int) -> Array | None:
        return None

    def statistics(self, rows: Array, weights: Array | None, work: _ResidualWorkspace) -> SufficientStatistics:
        total = self.zero()
        log_likelihood = entropy = 0.0
        for block in self.blocks(len(rows)):
            block_weights = None if weights is None else weights[block]
            joint = self.log_joint(rows[block], work)
            peak, log_total = normalise(joint)
            log_likelihood += _weighted_sum(peak + log_total, block_weights)
            joint *= np.exp(-log_total)
            joint *= joint > _NEGLIGIBLE
            entropy += _entropy(joint, block_weights)
            if block_weights is not None:
                joint *= block_weights
            total.soft_counts[...] += joint.sum(axis=1)
            self._add_moments(joint, total, work)
        return SufficientStatistics(
            self.reference,
            self.frame.scale,
            total.soft_counts,
            total.first,
            total.second,
            log_likelihood,
            entropy,
            n_rows=len(rows),
            weight_sum=_weighted_sum(np.ones(len(rows)), weights),
        )

    def _add_moments(self, responsibilities: Array, total: SufficientStatistics, work: _ResidualWorkspace) -> None:
        z = self._part(work.z, responsibilities.shape[1])
        for k, row in enumerate(responsibilities):
            members = _members(row > 0)
            r = row[members]
            if len(r):
                residual, scratch = self._residual(z, k, members, work)
                total.first[k] += residual @ r
                self.parameters.structure.add_scatter(total.second, k, residual, r, scratch)


@dataclass
class _ResidualWorkspace:
    screen: _QuadraticWorkspace | None  # None without a screen
    joint: Array  # (K, B)
    # (D B,) each, flat, so that a part of the rows is contiguous too: gathering from anything else copies it first.
    z: Array  # x / s
    residual: Array
    scratch: Array


def choose_kernel(parameters: MixtureParameters, frame: Frame, dtype: np.dtype[Any]) -> Kernel:
    """Kernel in the cheapest arithmetic whose rounding is small enough for these parameters.

    Single-precision products serve data that are single precision themselves; everything else is computed in double.

    Parameters
    ----------
    parameters : MixtureParameters
    frame : Frame
        Where the data lie.
    dtype : numpy.dtype
        Of the data.
    """
    error = rounding_bounds(parameters, frame)
    n_quadratic = parameters.structure.n_quadratic(parameters.n_features)
    single = dtype.kind == "f" and dtype.itemsize == 4
    for products in (np.dtype(np.float32), np.dtype(np.float64))[0 if single else 1 :]:
        narrow = n_quadratic * products.itemsize <= _MOST_FEATURE_BYTES
        if narrow and error[products.name] <= _TOLERANCE[products.name]:
            return QuadraticKernel(parameters, frame, products.type)
    return ResidualKernel(parameters, frame)


def rounding_bounds(parameters: MixtureParameters, frame: Frame) -> dict[str, float]:
    """Bound on the rounding error of one log-density of `QuadraticKernel`, in nats, for single and double precision."""
    structure = parameters.structure
    scale = structure.frame_scale(frame.scale)
    means = (parameters.means - frame.center) / scale
    factor = structure.amplification(means, structure.scale_cholesky(parameters.precisions_cholesky, scale))
    return {name: float(np.finfo(name).eps) * factor for name in ("float32", "float64")}


def _reach(dtype: Any) -> float:
    """Distance from the center, in units of the frame, beyond which rows count as that far: squares stay finite."""
    return float(np.finfo(dtype).max) ** 0.25


def normalise(joint: Array) -> tuple[Array, Array]:
    """Log-sum-exp by column.

    ``joint`` (K, B) becomes exp(joint − peak) in place; returns peak and log Σ exp(joint − peak), (B,) each.
    """
    peak = joint.max(axis=0)
    joint -= peak
    _exponentiate(joint)
    return peak, np.log(joint.sum(axis=0))


def _exponentiate(joint: Array) -> None:
    """Exponential in place, with zero for what is or nearly is subnormal.

    Such numbers take many times longer to compute, and to multiply with on some machines.
    """
    lowest = 0.98 * math.log(np.finfo(joint.dtype).tiny)
    if joint.min() < lowest:
        normal = joint >= lowest
        np.maximum(joint, lowest, out=joint)
        np.exp(joint, out=joint)
        joint *= normal
    else:
        np.exp(joint, out=joint)


def _weighted_sum(values: Array, weights: Array | None) -> float:
    if weights is None:
        return float(values.sum())
    return float(values @ weights)


def _members(mask: Array) -> Array | slice:
    """Indices where ``mask`` (B,) is true; all of them where gathering would cost more than it saves."""
    members = np.flatnonzero(mask)
    return members if 2 * len(members) < len(mask) else slice(None)


def _entropy(responsibilities: Array, weights: Array | None) -> float:
    logs = np.maximum(responsibilities, np.finfo(float).tiny)  # 0 log 0 = 0, and log stays vectorised
    np.log(logs, out=logs)
    return -_weighted_sum(np.einsum("kb,kb->b", responsibilities, logs), weights)


def _block_rows(block_bytes: int, row_bytes: int) -> int:
    rows = 1 << (max(1, block_bytes // row_bytes).bit_length() - 1)
    return min(max(rows, _SHORTEST_BLOCK), _LONGEST_BLOCK)
