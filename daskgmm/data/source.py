"""Sources of rows, and data sets made of them.

A `Source` is an array along whose first axis rows can be read in ranges. What a task needs to read one range is a
`Part`: small, picklable, and independent of the others. A source may also bring one `handle`, which all its parts share
(an open Zarr array), and tasks of a dask graph that several parts depend on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataChangedError

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes that one read brings into memory where the layout leaves a choice.
SLAB_BYTES = 16 << 20


class Part(ABC):
    """How one range of rows is read."""

    dependencies: tuple[Any, ...] = ()
    """Keys of the graph whose values `read` needs."""

    @abstractmethod
    def read(self, handle: Any, inputs: Mapping[Any, Any]) -> Array:
        """The rows.

        Parameters
        ----------
        handle : object
            The source's handle.
        inputs : mapping
            Value of every key in `dependencies`.
        """


@dataclass(frozen=True)
class RangePart(Part):
    """A range of rows of whatever the handle is."""

    start: int
    stop: int

    def read(self, handle: Any, inputs: Mapping[Any, Any]) -> Array:
        return np.asarray(handle[self.start : self.stop])


class Source(ABC):
    """Rows that can be read in ranges."""

    shape: tuple[int, ...]
    """(n,) or (n, D)."""

    dtype: np.dtype[Any]

    cuts: Sequence[int] | None = None
    """Row numbers, 0 and n included, where every read has to start and stop. None: anywhere."""

    chunk_rows: int = 1
    """Rows that are stored together: reads should start at multiples of it."""

    batch_rows: int = 1
    """Rows that are written together (a shard): tasks should start at multiples of it."""

    in_process: bool = False
    """The rows are in this process's memory."""

    reads_ahead: bool = False
    """Reading takes long enough to be worth a thread of its own."""

    handle: Any = None
    """What all parts share; picklable."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Part:
        """How to read rows ``start`` to ``stop``."""

    def shared_tasks(self) -> dict[Any, Any]:
        """Tasks of a dask graph that more than one part depends on."""
        return {}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is stored."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Slab:
    """What a task reads at once."""

    start: int
    stop: int
    rows: Part
    weights: Part | None
    n_features: int

    @property
    def dependencies(self) -> tuple[Any, ...]:
        """Keys that either part needs."""
        return self.rows.dependencies + (self.weights.dependencies if self.weights else ())

    def read(self, handles: tuple[Any, Any], inputs: Mapping[Any, Any]) -> tuple[Array, Array | None]:
        """Rows (n, D) and sample weights (n,).

        Raises
        ------
        DataChangedError
            If rows of another number or width come than were promised.
        """
        rows = self.rows.read(handles[0], inputs)
        if rows.shape[1:] != (self.n_features,):  # some widths would broadcast
            raise DataChangedError(
                f"X: rows {self.start} to {self.stop} were expected to have {self.n_features} columns, but an array of "
                f"shape {rows.shape} came. The blocks of a dask array are not what its metadata say."
            )
        weights = None
        if self.weights is not None:  # in one memory order, because products round differently where there are gaps
            weights = np.ascontiguousarray(self.weights.read(handles[1], inputs), dtype=np.float64)
        for what, values in (("X", rows), ("sample_weight", weights)):
            if values is not None and len(values) != self.stop - self.start:
                raise DataChangedError(
                    f"{what}: rows {self.start} to {self.stop} were expected to be {self.stop - self.start} rows, but "
                    f"{len(values)} came. The data changed while they were read, or a dask array's chunks are not what "
                    "it says; call x.compute_chunk_sizes() on it, or pass data that hold still."
                )
        return rows, weights


@dataclass(frozen=True)
class Dataset:
    """Rows and, optionally, a weight for each."""

    rows: Source
    weights: Source | None = None

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
    def handles(self) -> tuple[Any, Any]:
        """What the parts of rows and weights share."""
        return self.rows.handle, None if self.weights is None else self.weights.handle

    @property
    def in_process(self) -> bool:
        """Whether the rows are in this process's memory."""
        return self.rows.in_process

    @property
    def reads_ahead(self) -> bool:
        """Whether reading deserves a thread of its own."""
        return any(source.reads_ahead for source in self.sources)

    @property
    def cuts(self) -> Sequence[int] | None:
        """Row numbers where reads have to start and stop; None: anywhere."""
        return next((source.cuts for source in self.sources if source.cuts is not None), None)

    def slabs(self, start: int, stop: int) -> Iterator[Slab]:
        """Ranges that a task reads one after the other: whole chunks, of about `SLAB_BYTES`."""
        for a, b in ranges(start, stop, self._slab_rows, self.rows.chunk_rows, self.cuts):
            weights = None if self.weights is None else self.weights.part(a, b)
            yield Slab(a, b, self.rows.part(a, b), weights, self.n_features)

    @property
    def _slab_rows(self) -> int:
        if self.in_process:
            return max(1, self.n_rows)
        return max(1, SLAB_BYTES // max(1, self.rows.row_bytes))

    def shared_tasks(self) -> dict[Any, Any]:
        """Tasks of a dask graph that several parts depend on."""
        return {key: task for source in self.sources for key, task in source.shared_tasks().items()}


def ranges(start: int, stop: int, size: int, multiple: int, cuts: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Split rows ``start`` to ``stop`` into consecutive ranges of about ``size`` rows.

    Parameters
    ----------
    start, stop, size : int
    multiple : int
        Ranges begin at multiples of this.
    cuts : sequence of int or None
        The only row numbers where a range may begin or end; takes precedence over ``multiple``.
    """
    if cuts is None:
        step = max(multiple, size // multiple * multiple)
        while start < stop:
            end = min(stop, start // step * step + step)
            yield start, end
            start = end
        return
    inner = np.asarray(cuts)[np.searchsorted(cuts, start, "right") : np.searchsorted(cuts, stop, "right")]
    for end, following in zip(inner.tolist(), [*inner.tolist()[1:], None], strict=True):
        if end > start and (following is None or following - start > size):
            yield start, end
            start = end
