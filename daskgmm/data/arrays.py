"""Rows in memory, and rows of a file mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from ..errors import DataChangedError, StoreNotFoundError, UnsupportedDataError
from ..tuning import Tuning
from .addresses import printable
from .detached import held_tasks, piece_bytes
from .source import LONGEST_ADDRESS, Part, Source

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ArrayPart(Part):
    """A view of an array: free in this process; only these rows are sent to another process."""

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
        return 0  # the rows are in memory already

    def part(self, start: int, stop: int) -> Part:
        return ArrayPart(start, self.array[start:stop])

    def carried_bytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def detached(self, tuning: Tuning) -> tuple[Source, dict[Any, Any]]:
        rows = 1 << (max(1, piece_bytes(self.carried_bytes(), tuning) // max(1, self.row_bytes)).bit_length() - 1)
        pieces = [self.array[start : start + rows] for start in range(0, self.shape[0], rows)]
        tasks = held_tasks((np.ascontiguousarray(piece), piece.nbytes) for piece in pieces)
        return PieceSource(self.shape, self.dtype, tuple(tasks), rows), tasks


@dataclass(frozen=True)
class PiecePart(Part):
    """Consecutive rows of an array that is held in pieces on a cluster."""

    first: int
    """Number of the first piece's first row."""
    length: int
    """Number of rows of a piece."""
    dependencies: tuple[Any, ...] = ()
    """Keys of the pieces that contain the rows."""

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        i, j = (start - self.first) // self.length, -(-(stop - self.first) // self.length)
        pieces = [inputs[key].value for key in self.dependencies[i:j]]
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        begin = self.first + i * self.length
        return np.asarray(rows[start - begin : stop - begin])


class PieceSource(Source):
    """An array that is held in pieces on a cluster: see `ArraySource.detached`."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], keys: tuple[Any, ...], length: int) -> None:
        self.shape, self.dtype = shape, dtype
        self._keys, self.chunk_rows = keys, length

    def part(self, start: int, stop: int) -> Part:
        i, j = start // self.chunk_rows, -(-stop // self.chunk_rows)
        return PiecePart(i * self.chunk_rows, self.chunk_rows, self._keys[i:j])

    def held_bytes(self, n_rows: int) -> int:
        return (n_rows + self.chunk_rows) * self.row_bytes


def check_unmasked(values: Any, advice: str = "") -> None:
    """Raise `UnsupportedDataError` if any value is masked: NumPy would use the numbers under the mask."""
    if isinstance(values, np.ma.MaskedArray) and _any(np.ma.getmaskarray(values)):
        raise UnsupportedDataError(
            "The data are masked in places, and a Gaussian mixture has no meaning for missing values. Leave such rows "
            f"out with missing='drop', or fill them, for example with x.filled(…).{advice}"
        )


def unmasked(values: Any) -> Any:
    """Return the values of a masked array, NaN where they are masked; other data, and records, unchanged."""
    if not isinstance(values, np.ma.MaskedArray) or values.dtype.kind not in "biuf":
        return values
    # Integers become double precision, as in a fit of integers: a mask of nothing changes no bits.
    dtype = values.dtype if values.dtype.kind == "f" else np.float64
    return np.ma.filled(values.astype(dtype), np.nan)


def _any(mask: Array) -> bool:
    """Return True if any value is masked; each field of a record has a mask of its own."""
    return bool((structured_to_unstructured(mask) if mask.dtype.names else mask).any())


class MappedFile:
    """A `numpy.memmap` that is pickled as its description and mapped again in the other process."""

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
        """Raise if the file has become shorter: reading mapped memory behind its end kills the process."""
        filename, dtype, offset, shape, strides = self.description
        needed = offset + dtype.itemsize + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        try:
            size = os.stat(filename).st_size
        except OSError:
            return  # a removed file stays readable as long as it is mapped
        if size < needed:
            raise DataChangedError(
                f"{filename} has {size} bytes, and {needed} are mapped: the file became shorter while it was read. Use "
                "data that do not change, or a copy of them."
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
    """A `numpy.memmap`: read range by range, never copied whole, and mapped again in other processes."""

    kind = "memory-mapped file"
    reads_ahead = True

    def __init__(self, array: np.memmap[Any, np.dtype[Any]], filename: str, offset: int) -> None:
        self.address = printable(os.path.abspath(filename), LONGEST_ADDRESS - 1)
        self.handle = MappedFile(array, filename, offset)
        self.shape = array.shape
        self.dtype = array.dtype

    def __str__(self) -> str:
        return str(self.handle.description[0])


def mapped_source(array: Array) -> MappedSource | None:
    """Make the source of a memory map whose file is known; None for anything else."""
    if not isinstance(array, np.memmap) or array.filename is None or array.base is None:
        return None
    # The attribute `offset` of a view is its parent's: the start of the view follows from the memory addresses.
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    if array.size == 0 or any(stride < 0 for stride in array.strides):
        return None
    distance = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return MappedSource(array, str(array.filename), int(root.offset) + distance)
