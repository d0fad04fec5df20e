"""Checks of values and sample weights that any pass has read, and the treatment of incomplete rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import IncompleteDataError, InvalidWeightsError, NonFiniteDataError
from ..names import DROP, MISSING, RAISE
from .row_block import SAMPLE_WEIGHT, RowBlock

Array = np.ndarray[Any, np.dtype[Any]]

# Factor of values in a sum that must not overflow, as long as there are fewer than a million features.
_SMALL = 2.0**-20

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


def _nan_sums(rows: Array) -> Array | None:
    """Return the mask of the rows whose sum is NaN: of NaN, or of both infinities; None if there are none."""
    if rows.dtype.kind != "f":
        return None
    dtype = np.promote_types(rows.dtype, np.float32)
    with np.errstate(all="ignore"):
        # A product of matrices sums short rows ten times faster than `isnan(rows).any(axis=1)`.
        mask = np.isnan(rows @ np.full(rows.shape[1], _SMALL, dtype))
    return mask if mask.any() else None


def incomplete_rows(rows: Array) -> Array | None:
    """Return the mask of the rows that contain NaN, (n,); None if there are none."""
    mask = _nan_sums(rows)
    if mask is None:
        return None
    suspects = np.flatnonzero(mask)
    found = rows.take(suspects, axis=0)
    if np.isinf(found).any():
        mask[suspects] = np.isnan(found).any(axis=1)
    return mask if mask.any() else None


@dataclass(frozen=True)
class RowKind:
    """Kind of rows: the kernels that compute with the rows, the values that are valid, and the rows that count.

    An evaluator of results for each row calls `usable`, and then `check` for the rows of the block that it gets. An
    evaluator of sums alone, in a pass after such a one, calls `counting`.
    """

    name: str
    """Name by which kernels are chosen (`daskgmm.core.kernel_choice.KernelCandidate.rows`)."""
    check: Callable[[Array, int], None]
    """Check of some rows, (n, D), and the number of their first row; a module's function, because it is pickled."""
    missing: str = RAISE
    """Value of the parameter ``missing`` for these rows."""

    @property
    def leaves_out(self) -> bool:
        """Test whether some rows may not count."""
        return False

    @property
    def known_complete(self) -> RowKind:
        """Kind of these rows once a pass has found that all of them count."""
        return self

    def usable(self, block: RowBlock) -> tuple[RowBlock, Array | None]:
        """Return the block to compute with, and the mask of the rows that do not count, (n,); None if all rows do.

        Rows that do not count have any finite values and the weight zero. The block itself is not changed.
        """
        return block, None

    def counting(self, block: RowBlock) -> RowBlock:
        """Return the rows that count, without those of weight zero."""
        weights = block.weights
        if weights is None or np.count_nonzero(weights) == len(weights):
            return block
        return block.take(np.flatnonzero(weights != 0))

    def usable_bytes(self, row_bytes: int) -> int:
        """Memory that `usable` or `counting` takes for a row of that size."""
        return row_bytes + 24  # a copy without rows of weight zero, their weights and numbers


class _RowsLeftOut(RowKind):
    """Rows of which those with NaN do not count."""

    @property
    def leaves_out(self) -> bool:
        return True

    @property
    def known_complete(self) -> RowKind:
        return COMPLETE_ROWS

    def usable(self, block: RowBlock) -> tuple[RowBlock, Array | None]:
        mask = incomplete_rows(block.rows)
        if mask is None:
            return block, None
        rows = block.rows.copy()
        # A complete row, so that values of rows without weight are in the range of the data, but never an infinite one.
        first = rows[int(np.argmin(mask))].copy()
        rows[np.flatnonzero(mask)] = first if np.isfinite(first).all() else 0
        weights = np.ones(len(rows)) if block.weights is None else block.weights.copy()
        weights[mask] = 0
        return RowBlock(rows, {**block.beside, SAMPLE_WEIGHT.name: weights}), mask

    def counting(self, block: RowBlock) -> RowBlock:
        mask = _nan_sums(block.rows)  # a pass before has refused rows of both infinities
        if mask is None:
            return super().counting(block)
        counts = ~mask if block.weights is None else ~mask & (block.weights != 0)
        return block.take(np.flatnonzero(counts))

    def usable_bytes(self, row_bytes: int) -> int:
        return 2 * row_bytes + 32  # a copy and the incomplete rows; weights, sums, masks and numbers


COMPLETE_ROWS = RowKind("complete", check_finite)
"""Rows of one finite number for each feature."""

COMPLETE_ROWS_COUNT = _RowsLeftOut("complete", check_finite, DROP)
"""Rows of which those with NaN do not count."""

_KINDS = {kind.missing: kind for kind in (COMPLETE_ROWS, COMPLETE_ROWS_COUNT)}


def row_kind(missing: str) -> RowKind:
    """Return the kind of rows for a value of the parameter ``missing``.

    Raises
    ------
    ValueError
        For any other value.
    """
    if missing not in MISSING:
        raise ValueError(f"missing={missing!r:.80}; expected None, {' or '.join(map(repr, MISSING))}")
    return _KINDS[missing]


def check_weights(weights: Array, start: int) -> None:
    """Raise `InvalidWeightsError` with the first row whose weight is negative or not finite, from ``start`` on."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise InvalidWeightsError(
            f"sample_weight contains {weights[bad[0]]} in row {start + int(bad[0])}; weights have to be finite and "
            f"not negative"
        )


def check_complete(n_rows: int, n_incomplete: int, needed: int = 1) -> None:
    """Raise `IncompleteDataError` if incomplete rows leave fewer rows than needed."""
    if n_incomplete and n_rows - n_incomplete < needed:
        raise IncompleteDataError(n_rows, n_incomplete, needed)


def check_weight_sum(total: float) -> None:
    """Raise `InvalidWeightsError` if a sum of weights is zero, not finite, or too large or small for products."""
    if total == 0:
        raise InvalidWeightsError("sample_weight: all weights are zero; at least one row has to count")
    if not 1 / _LARGEST_SUM < total < _LARGEST_SUM:
        raise InvalidWeightsError(
            f"sample_weight: the weights sum to {total:g}, which leaves no room for sums of products with them. Divide "
            "them by their mean: only their ratios matter."
        )
