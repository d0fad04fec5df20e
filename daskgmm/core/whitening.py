"""Whitened residuals Uᵀ(x − μ_k) of rows under every component: their parameters, scratch arrays and sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# Responsibilities below this become zero: they are ten digits smaller than the rounding of one row.
NEGLIGIBLE = 1e-26


@dataclass(frozen=True)
class Whitening:
    """Map from rows to their log-joints under components with general matrices, in single or double precision."""

    inverse_scale: Array
    """1 / s, powers of two, float64, (D,)."""
    lowest: Array
    """Least x / s, to which rows are clipped, float64, (D,)."""
    highest: Array
    """Largest x / s, float64, (D,)."""
    centers: Array
    """μ / s, rounded to the dtype of the products, (K, D)."""
    remainders: Array
    """Rounding errors of the centers, (K, D): the residual is (x / s − center) − remainder."""
    factors: Array
    """Upper triangular factors of the precisions of x / s, (K, D, D)."""
    constants: Array
    """Terms of the log-joints that do not depend on the row, (K,)."""

    @classmethod
    def of(
        cls, means: Array, factors: Array, constants: Array, scale: Array, center: Array, reach: float, dtype: Any
    ) -> Whitening:
        """Round the parameters to the dtype of the products.

        Parameters
        ----------
        means : array of shape (K, D)
        factors : array of shape (K, D, D)
            Factors of the precisions of x / scale.
        constants : array of shape (K,)
        scale, center : arrays of shape (D,)
            Unit of every feature, and the middle of the range to which rows are clipped.
        reach : float
            Distance from the middle, in these units, to which rows are clipped.
        dtype : float32 or float64
        """
        exact = means / scale  # exact: scales are powers of two
        centers = exact.astype(dtype)
        # A constant of minus infinity, of a component of weight zero, would make NaN of zero times the constant.
        finite = np.maximum(constants, np.finfo(dtype).min / 4)
        return cls(
            1.0 / scale,
            center / scale - reach,
            center / scale + reach,
            centers,
            (exact - centers).astype(dtype),
            np.ascontiguousarray(factors, dtype=dtype),
            finite.astype(dtype),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the products."""
        return self.factors.dtype

    @property
    def bounds(self) -> tuple[Array, Array, Array]:
        """Unit and limits of the rows."""
        return self.inverse_scale, self.lowest, self.highest

    @property
    def means(self) -> tuple[Array, Array]:
        """Means in two parts, (K, D) each."""
        return self.centers, self.remainders

    def residual(self, component: int, z: Array, out: Array) -> None:
        """Write the residuals of rows in their units, (D, B), from the mean of a component."""
        np.subtract(z, self.centers[component][:, None], out=out)
        out -= self.remainders[component][:, None]


@dataclass
class WhiteningScratch:
    """Work arrays of one task's E-step. B is the rows of the longest block."""

    z: Array
    """Rows in their units, (D, B)."""
    residual: Array
    """Residuals of one component, (D, B)."""
    whitened: Array
    """Whitened residuals of one component, (D, B)."""
    joint: Array
    """Log-joints, later responsibilities, (K, B)."""
    logs: Array
    """Copy of the log-joints, for the entropies, (K, B)."""
    scatter: Array
    """Scatter matrix of one component and block, (D, D)."""


@dataclass(frozen=True)
class WhiteningSums:
    """Sums over rows, float64, about the mean of each component."""

    counts: Array
    """(K,)."""
    first: Array
    """(K, D)."""
    second: Array
    """Upper triangles, row by row, (K, D (D + 1) / 2)."""


def standardised(whitening: Whitening, rows: Array, out: Array) -> None:
    """Write x / s of a block of rows, clipped, to ``out``, (D, B)."""
    with np.errstate(over="ignore"):  # in single precision, of rows that are clipped
        np.multiply(rows.T, whitening.inverse_scale[:, None], out=out, dtype=np.float64, casting="same_kind")
    np.clip(out, whitening.lowest[:, None], whitening.highest[:, None], out=out, casting="same_kind")
