"""The loops of an E-step, in two forms that compute the same: plain NumPy, and compiled.

What is left beside the two matrix products of a block is moving rows into their frame, multiplying features, and the
log-sum-exp. NumPy takes one pass over memory for each operation. Compiled, each of the three is a single pass with a
vectorised exponential, and the loop over the blocks around them runs without the interpreter: blocks may be short
enough for a core's own cache, and threads do not wait for each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from .row_blocks import blocks, columns
from .structure import CovarianceStructure

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class FeatureMap:
    """How rows become features T(x) = [quadratic, z, 1]: z = (x − c) / s, limited to ± clip_limit."""

    structure: CovarianceStructure
    """Says which quadratic features there are."""
    center: Array
    """c, shape (D,)."""
    inverse_scale: Array
    """1 / s, shape (D,)."""
    clip_limit: float


@dataclass
class Scratch:
    """Arrays that the E-step of one task writes to. P is the number of features, B the rows of the longest block."""

    natural: Array
    """Natural parameters in the dtype of the products, (K, P); only read."""
    features: Array
    """Φ, (P, B)."""
    joint: Array
    """(K, B)."""
    products: Array
    """(K, P)."""


class ElementwiseBackend(ABC):
    """The loops over a block of B rows with D features and K components. Stateless and picklable."""

    name: str

    block_bytes: int
    """Size of a block's arrays with which the loops and the matrix products between them are fastest."""

    process_bytes: int
    """Memory that they take in a process before any data."""

    @property
    @abstractmethod
    def made_by(self) -> str:
        """What made the machine code that runs, on which the last bits of results depend."""

    @property
    def is_loaded(self) -> bool:
        """True where the first E-step in this process need not wait for machine code."""
        return True

    @abstractmethod
    def warm_up(self, dtype: np.dtype[Any]) -> None:
        """Begin, in the background, to load what the first E-step of rows of that dtype would have to wait for."""

    @abstractmethod
    def fill(self, features: FeatureMap, rows: Array, out: Array) -> None:
        """Write the features of a block.

        Parameters
        ----------
        features : FeatureMap
        rows : array of shape (B, D), any real dtype
        out : array of shape (P, B), float32 or float64
            The difference x − c is taken in double precision whatever its dtype: a large offset must not round the
            rows.
        """

    @abstractmethod
    def normalise(self, joint: Array, weights: Array | None) -> Array:
        """Log-sum-exp by column.

        Parameters
        ----------
        joint : array of shape (K, B), contiguous
            Log-joints; becomes the responsibilities times the weights, in place.
        weights : array of shape (B,), float64, or None

        Returns
        -------
        array of shape (B,)
            log Σ_k exp(joint), in double precision.
        """

    def expectation(
        self, features: FeatureMap, rows: Array, weights: Array | None, scratch: Scratch, sums: Array
    ) -> Array:
        """E-step of any number of rows: responsibilities, and what they weigh the features to.

        Parameters
        ----------
        features : FeatureMap
        rows : array of shape (n, D), any real dtype
        weights : array of shape (n,), float64, or None
        scratch : Scratch
        sums : array of shape (K, P), float64
            Σ r T(x) is added to it, in place.

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
            sums += np.matmul(joint, phi.T, out=scratch.products)
        return log_density


class NumpyBackend(ElementwiseBackend):
    """NumPy: the specification of the other form."""

    name = "numpy"
    block_bytes = 2 << 20  # fewer calls outweigh the cache
    process_bytes = 0

    @property
    def made_by(self) -> str:
        return "numpy"

    def warm_up(self, dtype: np.dtype[Any]) -> None:
        """There is nothing to load."""

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


PLAIN = NumpyBackend()
