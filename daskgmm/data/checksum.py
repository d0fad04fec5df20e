"""Checksums of what a pass saw, and the guard that compares passes by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataChangedError

Array = np.ndarray[Any, np.dtype[Any]]

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Checksum:
    """Number and checksums of some rows. ``+`` joins those of several ranges of rows, in any order.

    A checksum is the sum of all values, taken as unsigned integers of their size, modulo 2⁶⁴. It does not depend on how
    the rows were divided, costs as much as one reading of the memory, and no single value can change without it.
    """

    n_rows: int = 0
    rows: int = 0
    """Checksum of the rows."""
    weights: int = 0
    """Checksum of the sample weights; 0 where there are none."""

    def __post_init__(self) -> None:
        if self.n_rows < 0 or not (0 <= self.rows <= _MASK and 0 <= self.weights <= _MASK):
            raise ValueError(f"checksums {self.rows:x} and {self.weights:x} of {self.n_rows} rows")

    @classmethod
    def of(cls, rows: Array, weights: Array | None) -> Checksum:
        """Of rows, (n, D), and their weights, (n,)."""
        return cls(len(rows), _checksum(rows), 0 if weights is None else _checksum(weights))

    def __add__(self, other: Checksum) -> Checksum:
        return Checksum(
            self.n_rows + other.n_rows, (self.rows + other.rows) & _MASK, (self.weights + other.weights) & _MASK
        )


def _checksum(values: Array) -> int:
    size = values.dtype.itemsize
    if size > 8:  # of a long double's bytes some mean nothing; double precision is what is computed with
        values, size = values.astype(np.float64), 8
    words = values.view(f"u{size}")
    return int(np.add.reduce(words, axis=None, dtype=np.uint64))


class ChecksumGuard:
    """Remembers the checksum of the first pass over a data set, and compares every later one with it."""

    def __init__(self) -> None:
        self.checksum: Checksum | None = None

    def check(self, checksum: Checksum) -> None:
        """Compare the checksum of a pass with the one that is remembered; remember the first.

        Raises
        ------
        DataChangedError
            If it is not the same.
        """
        if self.checksum is None:
            self.checksum = checksum
        expected = self.checksum
        if checksum.n_rows != expected.n_rows:
            raise DataChangedError(
                f"a pass saw {checksum.n_rows} rows where {expected.n_rows} were expected: the data changed "
                "during the fit"
            )
        for what, found, before in (
            ("X", checksum.rows, expected.rows),
            ("sample_weight", checksum.weights, expected.weights),
        ):
            if found != before:
                raise DataChangedError(
                    f"{what}: a pass saw other values than the passes before it (checksum {found:016x}, before "
                    f"{before:016x}): the data were written to during the fit, or a dask array does not give the same "
                    "values each time it is computed. Pass data that hold still."
                )
