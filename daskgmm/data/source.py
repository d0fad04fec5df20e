"""Sources of rows.

A `Source` is an array along whose first axis rows can be read in ranges. A source has one `handle`, which all tasks
share (an open Zarr array). Beside the handle a task needs a `Part`, one for each batch of rows: nothing at all where
the handle suffices, else the blocks of a dask array, or the rows themselves. A task computes for itself where its batch
is cut into slabs, so the graph of a pass carries a few bytes for each task, however many chunks there are.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Self

import numpy as np

from ..tuning import Tuning

Array = np.ndarray[Any, np.dtype[Any]]

#: Kinds of sources.
KINDS = ("array in memory", "memory-mapped file", "Zarr array", "HDF5 dataset", "dask array")

#: Characters of an address that are kept.
LONGEST_ADDRESS = 4096


class Part(ABC):
    """Everything that reading some consecutive rows needs beside the source's handle: small, picklable, independent."""

    dependencies: tuple[Any, ...] = ()
    """Keys of the graph whose values `read` needs."""

    cuts: Array | None = None
    """Row numbers, the first and last included, where every read has to start and stop. None: anywhere."""

    @abstractmethod
    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        """Read some of the rows.

        Parameters
        ----------
        handle : object
            The source's handle.
        inputs : mapping
            Value of every key in `dependencies`.
        start, stop : int
            Row numbers of the source.
        """


class HandlePart(Part):
    """Rows of a handle that can be sliced."""

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        return np.asarray(handle[start:stop])


_HANDLE_PART = HandlePart()  # without state: all tasks share one


class Source(ABC):
    """Rows that can be read in ranges."""

    shape: tuple[int, ...]
    """(n,) or (n, D)."""

    dtype: np.dtype[Any]

    kind: str = KINDS[0]
    """One of `KINDS`."""

    address: str | None = None
    """Absolute path or URL of the rows, without secrets; None for rows without an address."""

    cuts: Array | None = None
    """Row numbers, 0 and n included, where every read has to start and stop. None: anywhere."""

    chunk_rows: int = 1
    """Rows that are stored together: reads should start at multiples of it."""

    batch_rows: int = 1
    """Rows that are written together (a shard): tasks should start at multiples of it."""

    in_process: bool = False
    """The rows are in this process's memory, or are computed from row numbers."""

    reads_ahead: bool = False
    """Reading takes long enough to be worth a thread of its own."""

    cacheable: bool = False
    """Reading decodes or computes the rows: keeping them in memory would save time."""

    handle: Any = None
    """Object that all tasks share; picklable."""

    feature_names: tuple[str, ...] | None = None
    """Names of the features, where the data have any."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def part(self, start: int, stop: int) -> Part:
        """Return the part that a task needs beside the handle to read rows ``start`` to ``stop``."""
        return _HANDLE_PART

    def shared_tasks(self) -> dict[Any, Any]:
        """Tasks of a dask graph that more than one part depends on."""
        return {}

    def carried_bytes(self) -> int:
        """Size of the data in all parts, which would be sent to other processes in every pass."""
        return 0

    def detached(self, tuning: Tuning) -> tuple[Source, dict[Any, Any]]:
        """Return a source of the same rows whose parts carry no data, and the tasks that the parts depend on instead.

        These tasks depend on nothing. Once their values are computed, the rows can be read again and again.
        """
        return self, {}

    def held_bytes(self, n_rows: int) -> int:
        """Size of the values of detached tasks that reading ``n_rows`` rows needs."""
        return 0

    def place(self, start: int, stop: int) -> str:
        """Name rows ``start`` to ``stop`` for an error."""
        return f"rows {start} to {stop}"

    def identity(self) -> Any:
        """Return a value that is equal for sources of the same rows read in the same way; None where this is unknown.

        The handle of such a source must carry none of the rows.
        """
        return None

    def with_missing(self) -> Source:
        """Return a source of the same rows in which stored values that mean "missing" are NaN, and not an error."""
        return self

    def with_handle(self, handle: Any) -> Self:
        """Return the source with another handle to the same rows."""
        source = copy.copy(self)
        source.handle = handle
        return source

    def at(self, address: str) -> Self:
        """Return the source with the address of the file that its rows come from."""
        source = copy.copy(self)
        source.address = address
        return source

    def check_unchanged(self) -> None:  # noqa: B027  # most kinds have nothing to check
        """Raise `DataChangedError` if the description of the stored rows has changed since the source was made."""

    def check_extent(self) -> None:  # noqa: B027  # most kinds hold what they declare
        """Raise `StoreError` unless the declared size can be true."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is stored."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def reading_bytes(self, n_rows: int) -> int:
        """Memory that reading ``n_rows`` rows at once takes, the rows included."""
        return n_rows * self.row_bytes


class DerivedSource(Source):
    """Rows made from another source's rows, one from each, as they are read.

    Parameters
    ----------
    source : Source
    shape : tuple of int
        Shape of the made rows, as many as the source has.
    dtype : numpy.dtype
    """

    def __init__(self, source: Source, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.source, self.shape, self.dtype = source, shape, dtype
        self.kind, self.address, self.handle = source.kind, source.address, source.handle
        self.cuts, self.chunk_rows, self.batch_rows = source.cuts, source.chunk_rows, source.batch_rows
        self.in_process, self.reads_ahead = source.in_process, source.reads_ahead
        self.cacheable = source.cacheable

    @abstractmethod
    def made_of(self, source: Source) -> Source:
        """Return this kind of source, made from another source of the same rows."""

    def __str__(self) -> str:
        return str(self.source)

    def with_missing(self) -> Source:
        return self.made_of(self.source.with_missing())

    def part(self, start: int, stop: int) -> Part:
        return self.source.part(start, stop)

    def shared_tasks(self) -> dict[Any, Any]:
        return self.source.shared_tasks()

    def carried_bytes(self) -> int:
        return self.source.carried_bytes()

    def detached(self, tuning: Tuning) -> tuple[Source, dict[Any, Any]]:
        source, tasks = self.source.detached(tuning)
        return self.made_of(source), tasks

    def held_bytes(self, n_rows: int) -> int:
        return self.source.held_bytes(n_rows)

    def place(self, start: int, stop: int) -> str:
        return self.source.place(start, stop)

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def check_extent(self) -> None:
        self.source.check_extent()

    def reading_bytes(self, n_rows: int) -> int:
        return self.source.reading_bytes(n_rows)


def borders(start: int, stop: int, size: int, multiple: int, cuts: Array | None) -> Array:
    """Row numbers that split rows ``start`` to ``stop`` into consecutive ranges of about ``size`` rows.

    Parameters
    ----------
    start, stop, size : int
    multiple : int
        Ranges begin at multiples of this number.
    cuts : numpy.ndarray or None
        The only row numbers where a range may begin or end, ascending; takes precedence over ``multiple``.

    Returns
    -------
    numpy.ndarray
        Ascending, from ``start`` to ``stop``: one array, however many ranges there are.
    """
    return np.fromiter(_borders(start, stop, size, multiple, cuts), np.int64)


def ranges(start: int, stop: int, size: int, multiple: int, cuts: Array | None) -> list[tuple[int, int]]:
    """Split rows into ranges; see `borders`."""
    return list(pairwise(_borders(start, stop, size, multiple, cuts)))


def _borders(start: int, stop: int, size: int, multiple: int, cuts: Array | None) -> Iterator[int]:
    if cuts is not None:
        yield from _at_cuts(start, stop, size, np.unique(cuts).tolist())
        return
    step = max(multiple, size // multiple * multiple)
    yield start
    if start < stop:  # one border where there are no rows
        yield from range(start // step * step + step, stop, step)
        yield stop


def _at_cuts(start: int, stop: int, size: int, cuts: list[int]) -> Iterator[int]:
    """Yield borders of the longest ranges of at most ``size`` rows, or of one longer piece between two cuts."""
    yield start
    while start < stop:
        furthest = bisect_right(cuts, min(stop, start + size)) - 1
        start = max(cuts[furthest], cuts[bisect_right(cuts, start)])
        yield start
