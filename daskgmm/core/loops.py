"""The element-wise loops of an E-step, in two forms that compute the same: plain NumPy, and compiled.

What is left beside the two matrix products of a block is moving rows into their frame, multiplying features, and the
log-sum-exp. NumPy takes one pass over memory for each operation; compiled, each of the three is a single pass, with a
vectorised exponential, and without the interpreter's lock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# Below this many log-joints in a pass the time to load compiled code is longer than the time it saves.
_WORTH_LOADING = 5_000_000


class Loops(ABC):
    """The three loops over a block of B rows with D features and K components. Stateless and picklable."""

    name: str

    block_bytes: int
    """Size of a block's arrays with which the loops and the matrix products between them are fastest."""

    @abstractmethod
    def warm_up(self) -> None:
        """Begin, in the background, to load what the first call would have to wait for."""

    @abstractmethod
    def standardise(self, rows: Array, center: Array, inverse_scale: Array, reach: float, out: Array) -> None:
        """Move rows into their frame, transposed: (x − c) / s, limited to ± reach.

        Parameters
        ----------
        rows : array of shape (B, D), any real dtype
        center, inverse_scale : array of shape (D,)
        reach : float
        out : array of shape (D, B), float32 or float64
            The difference is taken in double precision whatever its dtype: a large offset must not round the rows.
        """

    @abstractmethod
    def products(self, z: Array, out: Array) -> None:
        """Write z_i z_j for i ≤ j, row by row of the triangle: (D, B) to (D (D + 1) / 2, B)."""

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


class PlainLoops(Loops):
    """NumPy: the specification of the other form."""

    name = "numpy"
    block_bytes = 2 << 20  # fewer calls outweigh the cache

    def warm_up(self) -> None:
        """There is nothing to load."""

    def standardise(self, rows: Array, center: Array, inverse_scale: Array, reach: float, out: Array) -> None:
        exact = out if out.dtype == np.float64 else np.empty(out.shape)
        np.subtract(rows.T, center[:, None], out=exact)
        exact *= inverse_scale[:, None]
        np.clip(exact, -reach, reach, out=out, casting="same_kind")

    def products(self, z: Array, out: Array) -> None:
        start = 0
        for i in range(len(z)):
            stop = start + len(z) - i
            np.multiply(z[i:], z[i], out=out[start:stop])
            start = stop

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


PLAIN = PlainLoops()


def choose_loops(n_log_joints: float) -> Loops:
    """The compiled loops where a pass has enough work for them and numba is installed, else the plain ones."""
    if n_log_joints < _WORTH_LOADING:
        return PLAIN
    return _compiled() or PLAIN


@cache
def _compiled() -> Loops | None:
    try:
        from .compiled import CompiledLoops
    except ImportError:  # numba is missing, or does not know this version of Python or NumPy yet
        return None
    return CompiledLoops()
