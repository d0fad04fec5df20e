"""Checksums of the data that a pass saw, and the guard that compares passes by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataChangedError
from .row_block import RowBlock

Array = np.ndarray[Any, np.dtype[Any]]

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Checksum:
    """Number and checksums of some rows. ``+`` joins those of several ranges of rows, in any order.

    A checksum is the sum of all values, taken as unsigned integers of their size, modulo 2⁶⁴. The sum does not depend
    on how the rows were divided, costs as much as one reading of the memory, and changes with every single value.
    """

    n_rows: int = 0
    rows: int = 0
    """Checksum of the rows."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Checksum of every aligned input, by its name."""

    def __post_init__(self) -> None:
        if self.n_rows < 0 or not 0 <= self.rows <= _MASK:
            raise ValueError(f"checksum {self.rows:x} of {self.n_rows} rows")
        for name, value in self.beside.items():
            if not (0 <= value <= _MASK and name.isidentifier()):
                raise ValueError(f"checksum {value:x} of {name!a:.40}")

    @classmethod
    def of(cls, block: RowBlock) -> Checksum:
        """Checksum of the rows of a block."""
        return cls(
            len(block), checksum_of(block.rows), {name: checksum_of(values) for name, values in block.beside.items()}
        )

    def __add__(self, other: Checksum) -> Checksum:
        beside = dict(self.beside)
        for name, value in other.beside.items():
            beside[name] = (beside.get(name, 0) + value) & _MASK
        return Checksum(self.n_rows + other.n_rows, (self.rows + other.rows) & _MASK, beside)

    def sums(self) -> dict[str, int]:
        """Each checksum by the name of its parameter, that of the rows first."""
        return {"X": self.rows, **self.beside}


def checksum_of(values: Array) -> int:
    """Sum of all values as unsigned integers, see `Checksum`."""
    size = values.dtype.itemsize
    if size > 8:  # some bytes of a long double are padding; passes compute in double precision
        values, size = values.astype(np.float64), 8
    # In their own byte order: blocks of big-endian rows are of either order where pieces of them were joined.
    words = values.view(np.dtype(f"u{size}").newbyteorder(values.dtype.byteorder))
    return int(np.add.reduce(words, axis=None, dtype=np.uint64))


class ChecksumGuard:
    """Memory of the first pass's checksum, with which every later pass is compared."""

    def __init__(self) -> None:
        self.checksum: Checksum | None = None

    def check(self, checksum: Checksum) -> None:
        """Compare the checksum of a pass with the remembered checksum; remember the first.

        Raises
        ------
        DataChangedError
            If the checksums differ.
        """
        if self.checksum is None:
            self.checksum = checksum
        expected = self.checksum
        if checksum.n_rows != expected.n_rows:
            raise DataChangedError(
                f"a pass saw {checksum.n_rows} rows where {expected.n_rows} were expected: the data changed "
                "during the fit"
            )
        sums, before = checksum.sums(), expected.sums()
        for name in before | sums:
            if sums.get(name) != before.get(name):
                raise DataChangedError(
                    f"{name:.80}: a pass saw other values than the passes before it (checksum "
                    f"{sums.get(name, 0):016x}, before {before.get(name, 0):016x}): the data were written to during "
                    "the fit, or a dask array does not give the same values each time it is computed. Pass data that "
                    "hold still."
                )
