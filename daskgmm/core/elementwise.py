"""Element-wise loops of an E-step: the interface of their two forms, and the form in NumPy (`compiled` has the other).

Beside two matrix products, the E-step of a block moves rows into their frame, multiplies features, and takes the
log-sum-exp. NumPy takes one pass over memory for each operation. Compiled, each of the three is a single pass with a
vectorised exponential, and the loop over the blocks around them runs without the interpreter: blocks may be short
enough for a core's own cache, and threads do not wait for each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .row_blocks import blocks, columns
from .structure import CovarianceStructure
from .whitening import NEGLIGIBLE, Whitening, WhiteningScratch, WhiteningSums, standardised

Array = np.ndarray[Any, np.dtype[Any]]

# Rows whose sums are in single precision before they are added in double precision. Longer sums of nearly equal terms,
# as of binary features, lose more digits than the terms themselves.
_SINGLE_ROWS = 504

# Logarithm of the smallest responsibility in single precision: its products with features are not subnormal either.
_SINGLE_LOWEST = -69.0

# Up to this many pairs of a row and a component, the calls to NumPy take most of the time.
FEW_PAIRS = 1024


@dataclass(frozen=True)
class FeatureMap:
    """Map from rows to features T(x) = [quadratic, z, 1] with z = (x − c) / s, clipped to ± clip_limit."""

    structure: CovarianceStructure
    """Structure that defines the quadratic features."""
    center: Array
    """c, shape (D,)."""
    inverse_scale: Array
    """1 / s, shape (D,)."""
    clip_limit: float

    @property
    def limits(self) -> tuple[Array, Array]:
        """Least and largest z of every feature, (D,) each."""
        highest = np.full(self.center.shape, self.clip_limit)
        return -highest, highest


@dataclass
class Scratch:
    """Work arrays of one task's E-step. P is the number of features, B the rows of the longest block."""

    natural: Array
    """Natural parameters in the dtype of the products, (K, P); only read."""
    features: Array
    """Φ, (P, B)."""
    joint: Array
    """Log-joints, later responsibilities, (K, B)."""
    products: Array
    """Products of responsibilities and features, (K, P)."""


class ElementwiseBackend(ABC):
    """Loops over a block of B rows with D features and K components. Stateless and picklable."""

    name: str

    block_bytes: int
    """Size of a block's arrays with which the loops and the matrix products between them are fastest."""

    process_bytes: int
    """Memory that the loops take in a process before any data."""

    @property
    @abstractmethod
    def made_by(self) -> str:
        """Origin of the machine code, on which the last bits of results depend."""

    @property
    def is_loaded(self) -> bool:
        """Test whether the machine code is loaded: then the first E-step in this process need not wait for it."""
        return True

    @abstractmethod
    def warm_up(self, dtype: np.dtype[Any], *, rounds: bool = False) -> None:
        """Begin to load, in the background, the machine code for the first E-step of rows of that dtype.

        Parameters
        ----------
        dtype : numpy.dtype
        rounds : bool
            The first E-step may round the rows to single precision.
        """

    @abstractmethod
    def fill(self, features: FeatureMap, rows: Array, out: Array) -> None:
        """Write the features of a block.

        Parameters
        ----------
        features : FeatureMap
        rows : array of shape (B, D), any real dtype
        out : array of shape (P, B), float32 or float64
            The difference x − c is taken in double precision for either dtype: a large offset must not round the
            rows.
        """

    @abstractmethod
    def normalise(self, joint: Array, weights: Array | None) -> Array:
        """Compute the log-sum-exp by column, and the responsibilities in place.

        Parameters
        ----------
        joint : array of shape (K, B), contiguous
            Log-joints; overwritten with the responsibilities times the weights.
        weights : array of shape (B,), float64, or None

        Returns
        -------
        array of shape (B,)
            log Σ_k exp(joint), in double precision.
        """

    def expectation(
        self, features: FeatureMap, rows: Array, weights: Array | None, scratch: Scratch, sums: Array
    ) -> Array:
        """Run the E-step of any number of rows: add their features, weighted by responsibilities, to ``sums``.

        Parameters
        ----------
        features : FeatureMap
        rows : array of shape (n, D), any real dtype
        weights : array of shape (n,), float64, or None
        scratch : Scratch
        sums : array of shape (K, P), float64
            Σ r T(x) is added, in place.

        Returns
        -------
        array of shape (n,)
            log Σ_k exp(θ_k · T(x)), in double precision.
        """
        log_density = np.empty(len(rows))
        for block in blocks(len(rows), scratch.features.shape[1]):
            piece = rows[block]
            phi, joint = columns(scratch.features, len(piece)), columns(scratch.joint, len(piece))
            self.fill(features, piece, phi)
            np.matmul(scratch.natural, phi, out=joint)
            log_density[block] = self.normalise(joint, None if weights is None else weights[block])
            for part in _summed_together(len(piece), joint.dtype):
                sums += np.matmul(joint[:, part], phi[:, part].T, out=scratch.products)
        return log_density

    def whitened_log_joints(self, whitening: Whitening, rows: Array, scratch: WhiteningScratch) -> Array:
        """Compute the log-joints of one block from whitened residuals.

        Parameters
        ----------
        whitening : Whitening
        rows : array of shape (B, D)
        scratch : WhiteningScratch
            ``z`` holds the rows in their units afterwards.

        Returns
        -------
        array of shape (K, B)
            In ``scratch.joint``.
        """
        n = len(rows)
        z, joint = columns(scratch.z, n), columns(scratch.joint, n)
        standardised(whitening, rows, z)
        if joint.size <= FEW_PAIRS:
            return _log_joints_of_few(whitening, z, joint)
        residual, whitened = columns(scratch.residual, n), columns(scratch.whitened, n)
        for k, constant in enumerate(whitening.constants):
            whitening.residual(k, z, residual)
            np.multiply(whitening.squared_lengths(k, residual, whitened), -0.5, out=joint[k])
            joint[k] += constant
        return joint

    def whitened_expectation(
        self,
        whitening: Whitening,
        rows: Array,
        weights: Array | None,
        scratch: WhiteningScratch,
        sums: WhiteningSums,
    ) -> tuple[float, float]:
        """Run the E-step of any number of rows on whitened residuals: add their moments to ``sums``, in place.

        Parameters
        ----------
        whitening : Whitening
        rows : array of shape (n, D)
        weights : array of shape (n,), float64, or None
        scratch : WhiteningScratch
        sums : WhiteningSums

        Returns
        -------
        log_likelihood, entropy : float
            Σ w log p and Σ w times the entropy of the responsibilities, in double precision.
        """
        log_density, entropy = np.empty((2, len(rows)))
        for block in blocks(len(rows), scratch.z.shape[1]):
            joint = self.whitened_log_joints(whitening, rows[block], scratch)
            log_density[block] = self.normalise(joint, None)
            joint *= ~(joint <= NEGLIGIBLE)  # this comparison keeps NaN
            entropy[block] = row_entropies(joint, columns(scratch.logs, joint.shape[1]))
            if weights is not None:
                joint *= weights[block].astype(joint.dtype)
            self._add_whitened_moments(whitening, joint, scratch, sums)
        return weighted_sum(log_density, weights), weighted_sum(entropy, weights)

    def _add_whitened_moments(
        self, whitening: Whitening, responsibilities: Array, scratch: WhiteningScratch, sums: WhiteningSums
    ) -> None:
        n = responsibilities.shape[1]
        z, residual = columns(scratch.z, n), columns(scratch.residual, n)
        roots = np.sqrt(responsibilities, out=columns(scratch.logs, n))
        sums.counts[...] += responsibilities.sum(axis=1, dtype=np.float64)
        for k, root in enumerate(roots):
            whitening.residual(k, z, residual)
            residual *= root
            for part in _summed_together(n, residual.dtype):
                piece = residual[:, part]
                sums.first[k] += piece @ root[part]
                sums.second[k] += whitening.scatter(piece, scratch.scatter)


class NumpyBackend(ElementwiseBackend):
    """Loops in NumPy, the specification of the compiled form."""

    name = "numpy"
    block_bytes = 2 << 20  # beyond a core's own cache: fewer calls save more time
    process_bytes = 0

    @property
    def made_by(self) -> str:
        return "numpy"

    def warm_up(self, dtype: np.dtype[Any], *, rounds: bool = False) -> None:
        """Do nothing: NumPy needs no machine code loaded."""

    def fill(self, features: FeatureMap, rows: Array, out: Array) -> None:
        n_quadratic = len(out) - rows.shape[1] - 1
        z = out[n_quadratic:-1]
        exact = z if out.dtype == np.float64 else np.empty(z.shape)
        np.subtract(rows.T, features.center[:, None], out=exact)
        exact *= features.inverse_scale[:, None]
        np.clip(exact, -features.clip_limit, features.clip_limit, out=z, casting="same_kind")
        features.structure.fill_quadratic(z, out[:n_quadratic])
        out[-1] = 1

    def normalise(self, joint: Array, weights: Array | None) -> Array:
        peak = joint.max(axis=0)
        joint -= peak
        _exponentiate(joint)
        total = joint.sum(axis=0)
        factor = 1 / total if weights is None else weights / total
        joint *= factor.astype(joint.dtype, copy=False)
        return peak + np.log(total.astype(np.float64, copy=False))


def _summed_together(n_rows: int, dtype: np.dtype[Any]) -> Iterator[slice]:
    """Slices of the rows of a block that may be summed in that precision."""
    return blocks(n_rows, n_rows if dtype == np.float64 else _SINGLE_ROWS)


def weighted_sum(values: Array, weights: Array | None) -> float:
    """Sum Σ w v in double precision; without weights, Σ v, in the same bits as with weights of one."""
    values = values.astype(np.float64, copy=False)
    return float((values if weights is None else values * weights).sum())


def row_entropies(responsibilities: Array, scratch: Array | None = None) -> Array:
    """Entropy −Σ_k r log r of each row, in nats, (B,), for responsibilities of shape (K, B)."""
    tiny = np.finfo(responsibilities.dtype).tiny
    logs = np.maximum(responsibilities, tiny, out=scratch)  # 0 log 0 = 0; log stays vectorised
    np.log(logs, out=logs)
    return -np.einsum("kb,kb->b", responsibilities, logs)


def _log_joints_of_few(whitening: Whitening, z: Array, joint: Array) -> Array:
    """Compute the log-joints of all components at once: for few rows, calls to NumPy take most of the time."""
    residuals = np.ascontiguousarray(z.T) - whitening.centers[:, None] - whitening.remainders[:, None]
    whitened = whitening.whiten_rows(residuals)
    np.sum(np.square(whitened, out=whitened), axis=2, out=joint)  # pairwise along contiguous features
    joint *= -0.5
    joint += whitening.constants[:, None]
    return joint


def _exponentiate(joint: Array) -> None:
    """Take the exponential in place, with zero for results that are subnormal, or nearly so.

    Subnormal numbers take many times longer to compute and, on some machines, to multiply.
    """
    lowest = 0.98 * math.log(np.finfo(joint.dtype).tiny) if joint.dtype == np.float64 else _SINGLE_LOWEST
    if joint.min() < lowest:
        normal = joint >= lowest
        np.maximum(joint, lowest, out=joint)
        np.exp(joint, out=joint)
        joint *= normal
    else:
        np.exp(joint, out=joint)


PLAIN = NumpyBackend()
