"""Rows in memory, and rows of a file mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataChangedError, StoreNotFoundError, UnsupportedDataError
from .addresses import printable
from .source import LONGEST_ADDRESS, Part, Source

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ArrayPart(Part):
    """A view of an array: costs nothing in this process, and travels as just these rows to another one."""

    first: int
    values: Array

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        return self.values[start - self.first : stop - self.first]


class ArraySource(Source):
    """A NumPy array."""

    in_process = True

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def reading_bytes(self, n_rows: int) -> int:
        return 0  # they are there already

    def part(self, start: int, stop: int) -> Part:
        return ArrayPart(start, self.array[start:stop])


def check_unmasked(values: Any) -> None:
    """Raise `UnsupportedDataError` for an array that is masked in places: NumPy would take what lies under the mask."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise UnsupportedDataError(
            "The data are masked in places, and a Gaussian mixture has no meaning for missing values. Drop such rows, "
            "or fill them, for example with x.filled(…)."
        )


class MappedFile:
    """A `numpy.memmap` that travels as its description and is mapped again where it arrives."""

    def __init__(self, array: np.memmap[Any, np.dtype[Any]], filename: str, offset: int) -> None:
        self.description = (filename, array.dtype, offset, array.shape, array.strides)
        self._array: Array | None = array

    def __getstate__(self) -> dict[str, Any]:
        return {"description": self.description, "_array": None}

    def __getitem__(self, rows: slice) -> Array:
        if self._array is None:
            self._array = self._open()
        self._check_length()
        # A copy, so that the pages can go as soon as the rows have been used.
        return np.array(self._array[rows])

    def _check_length(self) -> None:
        """Raise if the file has become shorter: reading what is mapped and not there kills the process."""
        filename, dtype, offset, shape, strides = self.description
        needed = offset + dtype.itemsize + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        try:
            found = os.stat(filename).st_size
        except OSError:
            return  # a file that was removed stays as long as it is mapped
        if found < needed:
            raise DataChangedError(
                f"{filename} has {found} bytes, and {needed} are mapped: it became shorter while it was read. Use "
                "data that hold still, or a copy of them."
            )

    def _open(self) -> Array:
        filename, dtype, offset, shape, strides = self.description
        try:
            whole = np.memmap(filename, dtype=np.uint8, mode="r")
        except FileNotFoundError as error:
            raise StoreNotFoundError(
                f"{filename} is not visible to this worker. A memory-mapped file has to lie on a file system that the "
                "workers share; otherwise store the data with Zarr."
            ) from error
        return np.ndarray(shape, dtype, buffer=whole, offset=offset, strides=strides)


class MappedSource(Source):
    """A `numpy.memmap`: read range by range, never copied whole, and mapped anew in other processes."""

    kind = "memory-mapped file"
    reads_ahead = True

    def __init__(self, array: np.memmap[Any, np.dtype[Any]], filename: str, offset: int) -> None:
        self.address = printable(os.path.abspath(filename), LONGEST_ADDRESS - 1)
        self.handle = MappedFile(array, filename, offset)
        self.shape = array.shape
        self.dtype = array.dtype


def mapped_source(array: Array) -> MappedSource | None:
    """Source of a memory map whose file is known; None for anything else."""
    if not isinstance(array, np.memmap) or array.filename is None or array.base is None:
        return None
    # The attribute `offset` of a view is its parent's: where the view starts follows from the addresses.
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    if array.size == 0 or any(stride < 0 for stride in array.strides):
        return None
    distance = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return MappedSource(array, str(array.filename), int(root.offset) + distance)
