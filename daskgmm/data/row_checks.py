"""Checks of values and sample weights that any pass has read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidWeightsError, NonFiniteDataError

Array = np.ndarray[Any, np.dtype[Any]]

# Largest sum of weights: products with squares of the data should neither overflow nor lose digits.
_LARGEST_SUM = 1e200


def check_finite(rows: Array, start: int) -> None:
    """Raise `NonFiniteDataError` with the first row that holds NaN or infinity, counted from ``start``."""
    if rows.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum(dtype=np.float64)):
            return
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise NonFiniteDataError(start + int(bad[0]), is_nan=bool(np.isnan(rows[bad[0]]).any()))


@dataclass(frozen=True)
class RowKind:
    """Kind of rows: the kernels that compute with the rows, and the values that are valid."""

    name: str
    """Name by which kernels are chosen (`daskgmm.core.kernel_choice.KernelCandidate.rows`)."""
    check: Callable[[Array, int], None]
    """Check of some rows, (n, D), and the number of their first row; a module's function, because it is pickled."""


COMPLETE_ROWS = RowKind("complete", check_finite)
"""Rows of one finite number for each feature."""


def check_weights(weights: Array, start: int) -> None:
    """Raise `InvalidWeightsError` with the first row whose weight is negative or not finite, from ``start`` on."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise InvalidWeightsError(
            f"sample_weight contains {weights[bad[0]]} in row {start + int(bad[0])}; weights have to be finite and "
            f"not negative"
        )


def check_weight_sum(total: float) -> None:
    """Raise `InvalidWeightsError` if a sum of weights is zero, not finite, or too large or small for products."""
    if total == 0:
        raise InvalidWeightsError("sample_weight: all weights are zero; at least one row has to count")
    if not 1 / _LARGEST_SUM < total < _LARGEST_SUM:
        raise InvalidWeightsError(
            f"sample_weight: the weights sum to {total:g}, which leaves no room for sums of products with them. Divide "
            "them by their mean: only their ratios matter."
        )
