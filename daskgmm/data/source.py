"""Sources of rows, and data sets made of them.

A `Source` is an array along whose first axis rows can be read in ranges. It brings one `handle`, which all tasks share
(an open Zarr array). What a task needs beyond it is a `Part`, one for each `Batch` of rows: nothing at all where the
handle suffices, else the blocks of a dask array, or the rows themselves. Where a batch is cut into slabs follows from
arithmetic, and the task does that itself: so the graph of a pass carries a few bytes for each task, however many chunks
there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import DataChangedError
from ..tuning import Tuning
from .checksum import Checksum, ChecksumGuard

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes that one read brings into memory where the layout leaves a choice and nobody asks for other sizes.
SLAB_BYTES = Tuning.slab_bytes

#: What sources may be.
KINDS = ("array in memory", "memory-mapped file", "Zarr array", "HDF5 dataset", "dask array")

#: Characters of an address that are kept.
LONGEST_ADDRESS = 4096


class Part(ABC):
    """What reading some consecutive rows of a source needs beside its handle: small, picklable, independent."""

    dependencies: tuple[Any, ...] = ()
    """Keys of the graph whose values `read` needs."""

    cuts: Array | None = None
    """Row numbers, the first and last included, where every read has to start and stop. None: anywhere."""

    @abstractmethod
    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        """Some of the rows.

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


_HANDLE_PART = HandlePart()  # it holds nothing, and one will do for all tasks


class Source(ABC):
    """Rows that can be read in ranges."""

    shape: tuple[int, ...]
    """(n,) or (n, D)."""

    dtype: np.dtype[Any]

    kind: str = KINDS[0]
    """One of `KINDS`."""

    address: str | None = None
    """Absolute path or URL where the rows lie, without secrets; None where there is no such thing."""

    cuts: Array | None = None
    """Row numbers, 0 and n included, where every read has to start and stop. None: anywhere."""

    chunk_rows: int = 1
    """Rows that are stored together: reads should start at multiples of it."""

    batch_rows: int = 1
    """Rows that are written together (a shard): tasks should start at multiples of it."""

    in_process: bool = False
    """The rows are in this process's memory, or follow from their numbers."""

    reads_ahead: bool = False
    """Reading takes long enough to be worth a thread of its own."""

    handle: Any = None
    """What all tasks share; picklable."""

    feature_names: tuple[str, ...] | None = None
    """Names of the features, where the data have any."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def part(self, start: int, stop: int) -> Part:
        """What a task needs beside the handle to read rows ``start`` to ``stop``."""
        return _HANDLE_PART

    def shared_tasks(self) -> dict[Any, Any]:
        """Tasks of a dask graph that more than one part depends on."""
        return {}

    def carried_bytes(self) -> int:
        """Size of what all parts bring with them: it would be sent to other processes in every pass."""
        return 0

    def detached(self, tuning: Tuning) -> tuple[Source, dict[Any, Any]]:
        """The same rows, with parts that bring nothing with them, and the tasks that their dependencies are.

        These tasks depend on nothing. Whoever computes their values once can read the rows again and again.
        """
        return self, {}

    def held_bytes(self, n_rows: int) -> int:
        """Size of the values of detached tasks that reading so many rows takes."""
        return 0

    def place(self, start: int, stop: int) -> str:
        """What an error calls rows ``start`` to ``stop``."""
        return f"rows {start} to {stop}"

    def identity(self) -> Any:
        """Value, equal for sources that read the same rows in the same way; None where that cannot be told.

        Nothing of the rows themselves may travel with the handle.
        """
        return None

    def check_unchanged(self) -> None:  # noqa: B027  # most kinds have nothing to look at
        """Raise `DataChangedError` if what says how to read the rows has changed since it was looked at."""

    def check_extent(self) -> None:  # noqa: B027  # most kinds take no more than they declare
        """Raise `StoreError` unless the declared size can be true."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is stored."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def reading_bytes(self, n_rows: int) -> int:
        """Memory that reading so many rows at once takes, the rows included."""
        return n_rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows that one task reads."""

    start: int
    stop: int
    rows: Part
    weights: Part | None

    @property
    def n_rows(self) -> int:
        """Rows of the batch."""
        return self.stop - self.start

    @property
    def dependencies(self) -> tuple[Any, ...]:
        """Keys that either part needs, each once."""
        return tuple(dict.fromkeys(self.rows.dependencies + (self.weights.dependencies if self.weights else ())))

    @property
    def cuts(self) -> Array | None:
        """Row numbers where reads have to start and stop; None: anywhere."""
        return next((part.cuts for part in (self.rows, self.weights) if part and part.cuts is not None), None)


@dataclass(frozen=True)
class Reader:
    """Reads batches of a data set: what all tasks share."""

    handles: tuple[Any, Any]
    """Of rows and weights."""

    n_features: int

    slab_rows: int
    """Rows that are read at once, about."""

    chunk_rows: int
    """Rows that are stored together."""

    reads_ahead: bool
    """Reading deserves a thread of its own."""

    def slabs(self, batch: Batch) -> list[tuple[int, int]]:
        """Ranges of rows that a task reads one after the other: whole chunks, of about `slab_rows`."""
        return ranges(batch.start, batch.stop, self.slab_rows, self.chunk_rows, batch.cuts)

    def stream(self, batch: Batch, inputs: Mapping[Any, Any]) -> Iterator[tuple[int, tuple[Array, Array | None]]]:
        """Yield the first row of each slab of a batch, and the slab; the next is read while the caller computes."""
        slabs = self.slabs(batch)
        if not self.reads_ahead or len(slabs) == 1:
            for start, stop in slabs:
                yield start, self.read(batch, start, stop, inputs)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="gmm-read") as pool:
            coming = pool.submit(self.read, batch, *slabs[0], inputs)
            for (start, _), following in zip(slabs, [*slabs[1:], None], strict=True):
                rows = coming.result()
                if following is not None:
                    coming = pool.submit(self.read, batch, *following, inputs)
                yield start, rows
                del rows  # two slabs are alive at a time, not three

    def read(self, batch: Batch, start: int, stop: int, inputs: Mapping[Any, Any]) -> tuple[Array, Array | None]:
        """Rows (n, D) and sample weights (n,) of one slab.

        Raises
        ------
        DataChangedError
            If rows of another number or width come than were promised.
        """
        rows = batch.rows.read(self.handles[0], inputs, start, stop)
        if rows.shape[1:] != (self.n_features,):  # some widths would broadcast
            raise DataChangedError(
                f"X: rows {start} to {stop} were expected to have {self.n_features} columns, but an array of "
                f"shape {rows.shape} came. The blocks of a dask array are not what its metadata say."
            )
        # Sums are grouped otherwise where arrays have gaps, or lie off the bounds of words, as what travelled may.
        rows, weights = np.require(rows, requirements="A"), None
        if batch.weights is not None:
            read = batch.weights.read(self.handles[1], inputs, start, stop)
            weights = np.require(read, np.float64, ["C_CONTIGUOUS", "ALIGNED"])
        for what, values in (("X", rows), ("sample_weight", weights)):
            if values is not None:
                _check_length(what, values, start, stop)
        return rows, weights

    def checksum(self, batch: Batch, start: int, stop: int, inputs: Mapping[Any, Any]) -> Checksum:
        """Return the checksum of rows ``start`` to ``stop`` of a batch; only slabs that hold some of them are read."""
        found = Checksum()
        for begin, end in self.slabs(batch):
            first, last = max(begin, start), min(end, stop)
            if first < last:
                rows, weights = self.read(batch, begin, end, inputs)
                part = slice(first - begin, last - begin)
                found += Checksum.of(rows[part], None if weights is None else weights[part])
        return found


def _check_length(what: str, values: Array, start: int, stop: int) -> None:
    if len(values) != stop - start:
        raise DataChangedError(
            f"{what}: rows {start} to {stop} were expected to be {stop - start} rows, but "
            f"{len(values)} came. The data changed while they were read, or a dask array's chunks are not what "
            "it says; call x.compute_chunk_sizes() on it, or pass data that hold still."
        )


class DerivedSource(Source):
    """Rows that are made of another source's, one of each, where they are read.

    Parameters
    ----------
    source : Source
    shape : tuple of int
        With as many rows.
    dtype : numpy.dtype
    """

    def __init__(self, source: Source, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.source, self.shape, self.dtype = source, shape, dtype
        self.kind, self.address, self.handle = source.kind, source.address, source.handle
        self.cuts, self.chunk_rows, self.batch_rows = source.cuts, source.chunk_rows, source.batch_rows
        self.in_process, self.reads_ahead = source.in_process, source.reads_ahead

    @abstractmethod
    def made_of(self, source: Source) -> Source:
        """The same of the same rows from elsewhere."""

    def __str__(self) -> str:
        return str(self.source)

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


class _Column(DerivedSource):
    """Sample weights as rows of one feature."""

    def __init__(self, weights: Source) -> None:
        super().__init__(weights, (*weights.shape, 1), weights.dtype)

    def made_of(self, source: Source) -> Source:
        return _Column(source)

    def part(self, start: int, stop: int) -> Part:
        return _ColumnPart(self.source.part(start, stop))


class _ColumnPart(Part):
    def __init__(self, weights: Part) -> None:
        self._weights = weights
        self.dependencies, self.cuts = weights.dependencies, weights.cuts

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        weights = self._weights.read(handle, inputs, start, stop)
        _check_length("sample_weight", weights, start, stop)
        return weights.reshape(-1, 1)


@dataclass(frozen=True)
class Dataset:
    """Rows and, optionally, a weight for each."""

    rows: Source
    weights: Source | None = None
    guard: ChecksumGuard = field(default_factory=ChecksumGuard, compare=False)
    """What passes over it have seen."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.rows.shape[0]

    @property
    def n_features(self) -> int:
        """D."""
        return self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return self.rows.dtype

    @property
    def sources(self) -> tuple[Source, ...]:
        """Rows, and weights where there are any."""
        return (self.rows,) if self.weights is None else (self.rows, self.weights)

    @property
    def in_process(self) -> bool:
        """Whether the rows are in this process's memory."""
        return self.rows.in_process

    def held_bytes(self, n_rows: int) -> int:
        """Size of the values of detached tasks that reading so many rows takes."""
        return sum(source.held_bytes(n_rows) for source in self.sources)

    @property
    def cuts(self) -> Array | None:
        """Row numbers where reads have to start and stop; None: anywhere."""
        return next((source.cuts for source in self.sources if source.cuts is not None), None)

    def reader(self, slab_bytes: int) -> Reader:
        """Return what tasks need to read any batch, about ``slab_bytes`` at a time."""
        return Reader(
            (self.rows.handle, None if self.weights is None else self.weights.handle),
            self.n_features,
            # Rows that take nothing to read, because they are in memory, are read in one piece.
            max(1, slab_bytes // max(1, self.rows.row_bytes) if self.rows.reading_bytes(1) else self.n_rows),
            self.rows.chunk_rows,
            self.reads_ahead,
        )

    @property
    def reads_ahead(self) -> bool:
        """Reading deserves a thread of its own."""
        return any(source.reads_ahead for source in self.sources)

    def longest_slab(self, batch_rows: int, slab_bytes: int) -> int:
        """Rows of the longest slab, given the rows of the longest batch and the size of a slab."""
        reader = self.reader(slab_bytes)
        if self.cuts is not None:
            return max(int(np.diff(self.cuts).max()), min(reader.slab_rows, batch_rows))
        return min(batch_rows, max(reader.chunk_rows, reader.slab_rows // reader.chunk_rows * reader.chunk_rows))

    def batch(self, start: int, stop: int) -> Batch:
        """What a task needs beside the reader to read rows ``start`` to ``stop``."""
        return Batch(
            start, stop, self.rows.part(start, stop), None if self.weights is None else self.weights.part(start, stop)
        )

    @property
    def weights_alone(self) -> Dataset:
        """The weights as rows of one feature."""
        if self.weights is None:
            raise ValueError("a data set without weights")
        return Dataset(_Column(self.weights))

    def check_unchanged(self, checksum: Checksum) -> None:
        """Raise unless a pass that is over saw what the passes before it did, and stores still say the same; cheap.

        Parameters
        ----------
        checksum : Checksum
            What the pass saw.

        Raises
        ------
        DataChangedError, StoreNotFoundError, StoreError
        """
        for source in self.sources:
            source.check_unchanged()
        self.guard.check(checksum)

    def shared_tasks(self) -> dict[Any, Any]:
        """Tasks of a dask graph that several parts depend on."""
        return {key: task for source in self.sources for key, task in source.shared_tasks().items()}


def covering_batch(dataset: Dataset, start: int, stop: int) -> Batch:
    """Return the shortest batch that holds rows ``start`` to ``stop``."""
    if dataset.cuts is None:
        return dataset.batch(start, stop)
    edges = borders(0, dataset.n_rows, 1, 1, dataset.cuts)
    first, last = np.searchsorted(edges, start, "right") - 1, np.searchsorted(edges, stop)
    return dataset.batch(int(edges[first]), int(edges[last]))


def borders(start: int, stop: int, size: int, multiple: int, cuts: Array | None) -> Array:
    """Row numbers that split rows ``start`` to ``stop`` into consecutive ranges of about ``size`` rows.

    Parameters
    ----------
    start, stop, size : int
    multiple : int
        Ranges begin at multiples of this.
    cuts : numpy.ndarray or None
        The only row numbers where a range may begin or end, ascending; takes precedence over ``multiple``.

    Returns
    -------
    numpy.ndarray
        Ascending, from ``start`` to ``stop``: one array, however many ranges there are.
    """
    if cuts is None:
        step = max(multiple, size // multiple * multiple)
        inner = np.arange(start // step * step + step, stop, step)
        return np.unique(np.concatenate([[start], inner, [stop]]))  # one border where there are no rows
    return np.fromiter(_at_cuts(start, stop, size, np.unique(cuts).tolist()), np.int64)


def ranges(start: int, stop: int, size: int, multiple: int, cuts: Array | None) -> list[tuple[int, int]]:
    """The ranges between `borders`."""
    return list(pairwise(borders(start, stop, size, multiple, cuts).tolist()))


def _at_cuts(start: int, stop: int, size: int, cuts: list[int]) -> Iterator[int]:
    """Borders of the longest ranges of at most ``size`` rows, or of one piece between two cuts where that is longer."""
    yield start
    while start < stop:
        furthest = bisect_right(cuts, min(stop, start + size)) - 1
        start = max(cuts[furthest], cuts[bisect_right(cuts, start)])
        yield start
