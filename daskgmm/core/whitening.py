"""Whitened residuals Uᵀ(x − μ_k) of rows under every component: their parameters, scratch arrays and sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .triangle import pack, whitened_square

Array = np.ndarray[Any, np.dtype[Any]]

# Responsibilities below this become zero: they are ten digits smaller than the rounding of one row.
NEGLIGIBLE = 1e-26

# Features whose squares NumPy adds together.
_PANEL = 32


@dataclass(frozen=True)
class Whitening:
    """Map from rows to their log-joints under components, in single or double precision."""

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
    """Factors of the precisions of x / s: upper triangles, (K, D, D), or the diagonals of diagonal matrices, (K, D)."""
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
        factors : array of shape (K, D, D) or (K, D)
            Factors of the precisions of x / scale, or their diagonals.
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
    def is_diagonal(self) -> bool:
        """Test whether all factors are diagonal matrices."""
        return self.factors.ndim == 2

    @cached_property
    def farthest(self) -> float:
        """Squared distance from each mean, in standard deviations, up to which a row needs no clipping."""
        distance = float((self.highest - self.lowest).min()) / 4 * float(self.factors.min())  # half of the way
        return min(distance * distance, float(np.finfo(self.dtype).max))

    def clipped(self, rows: Array) -> Array:
        """Rows clipped to the limits, in the units of the data and the dtype of the products."""
        clipped = np.clip(rows, self.lowest / self.inverse_scale, self.highest / self.inverse_scale)
        return clipped.astype(self.dtype, copy=False)

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

    def squared_lengths(self, component: int, residual: Array, work: Array) -> Array:
        """Squared length of every whitened column of ``residual`` (D, B), (B,); overwrites ``work`` (D, B)."""
        factor = self.factors[component]
        if not self.is_diagonal:
            return whitened_square(factor, residual, work)
        np.multiply(residual, factor[:, None], out=work)
        # NumPy adds one feature after the other: shorter sums lose fewer digits.
        panels = [work[start : start + _PANEL] for start in range(0, len(work), _PANEL)]
        return np.sum([np.einsum("db,db->b", panel, panel) for panel in panels], axis=0)

    def whiten_rows(self, residuals: Array) -> Array:
        """Whiten the residuals of all components, (K, B, D)."""
        return residuals * self.factors[:, None] if self.is_diagonal else residuals @ self.factors

    def scatter(self, columns: Array, work: Array) -> Array:
        """Sum of the products of columns with themselves, in the form of `WhiteningSums.second`."""
        if self.is_diagonal:
            return np.einsum("db,db->d", columns, columns, out=work)
        return pack(np.matmul(columns, columns.T, out=work))


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
    """Scatter matrix of one component and block, (D, D), or its diagonal, (D,)."""


@dataclass(frozen=True)
class WhiteningSums:
    """Sums over rows, float64, about the mean of each component."""

    counts: Array
    """(K,)."""
    first: Array
    """(K, D)."""
    second: Array
    """Upper triangles, row by row, (K, D (D + 1) / 2), or diagonals, (K, D)."""


def standardised(whitening: Whitening, rows: Array, out: Array) -> None:
    """Write x / s of a block of rows, clipped, to ``out``, (D, B)."""
    with np.errstate(over="ignore"):  # in single precision, of rows that are clipped
        np.multiply(rows.T, whitening.inverse_scale[:, None], out=out, dtype=np.float64, casting="same_kind")
    np.clip(out, whitening.lowest[:, None], whitening.highest[:, None], out=out, casting="same_kind")
