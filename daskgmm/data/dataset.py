"""Data sets: rows and the inputs that are aligned with them, read together in batches.

A `Dataset` holds one `Source` for the rows and one for each `AlignedInput`. A task takes a `Reader`, which all tasks
share, and a `Batch`, which has a `Part` of every source, and reads `RowBlock` after `RowBlock`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DataChangedError
from .checksum import Checksum, ChecksumGuard, checksum_of
from .reading import Reading
from .row_block import SAMPLE_WEIGHT, AlignedInput, RowBlock
from .row_cache import NOT_KEPT, CacheAccess, KeptBlock, OpenCache
from .row_checks import COMPLETE_ROWS, RowKind
from .source import DerivedSource, Part, Source, borders, ranges

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows that one task reads."""

    start: int
    stop: int
    parts: tuple[Part, ...]
    """One of every source of the data set, in the order of `Dataset.sources`."""

    @property
    def n_rows(self) -> int:
        """Rows of the batch."""
        return self.stop - self.start

    @property
    def dependencies(self) -> tuple[Any, ...]:
        """Keys of the graph whose values the parts need, each once."""
        return tuple(dict.fromkeys(key for part in self.parts for key in part.dependencies))

    @property
    def cuts(self) -> Array | None:
        """Row numbers where reads have to start and stop; None: anywhere."""
        return _first_cuts(self.parts)


def _first_cuts(parts: tuple[Part, ...] | tuple[Source, ...]) -> Array | None:
    return next((part.cuts for part in parts if part.cuts is not None), None)


@dataclass(frozen=True, slots=True)
class Slab:
    """Rows that a task has read at once."""

    start: int
    """Number of the first row."""
    block: RowBlock
    checksum: Checksum
    reading: Reading
    """Bytes of the slab; no holders."""
    is_kept: bool
    """Some of the rows are in the cache of this process."""


_NOTHING: KeptBlock = {}


@dataclass(frozen=True)
class Reader:
    """Reader of any batch of a data set, shared by all tasks."""

    handles: tuple[Any, ...]
    """Handle of every source, in the order of `Dataset.sources`."""

    beside: tuple[AlignedInput, ...]
    """Kinds of the aligned inputs, in the same order, after the rows."""

    n_features: int

    slab_rows: int
    """Rows that are read at once, about."""

    chunk_rows: int
    """Rows that are stored together."""

    reads_ahead: bool
    """Reading deserves a thread of its own."""

    row_bytes: tuple[int, ...]
    """Bytes of a row of every source."""

    access: CacheAccess = NOT_KEPT
    """Access to rows that are kept between passes."""

    def slabs(self, batch: Batch) -> list[tuple[int, int]]:
        """Ranges of rows that a task reads one after the other: whole chunks, of about `slab_rows`."""
        return ranges(batch.start, batch.stop, self.slab_rows, self.chunk_rows, batch.cuts)

    def stream(self, batch: Batch, inputs: Mapping[Any, Any]) -> Iterator[Slab]:
        """Yield the slabs of a batch; the next is read while the caller computes."""
        cache = self.access.open()
        for start, block, kept in self._blocks(batch, inputs, cache):
            yield self._slab(start, block, kept, cache)
            del block, kept  # two slabs are alive at a time, not three

    def _blocks(
        self, batch: Batch, inputs: Mapping[Any, Any], cache: OpenCache
    ) -> Iterator[tuple[int, RowBlock, KeptBlock]]:
        """Yield the first row of each slab, the slab, and what was kept of it."""
        slabs = cache.pieces(self.slabs(batch))
        if not self.reads_ahead or len(slabs) == 1 or all(cache.is_complete(*rows) for rows in slabs):
            for rows in slabs:
                yield self._read(batch, *rows, inputs, cache)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="gmm-read") as pool:
            coming = pool.submit(self._read, batch, *slabs[0], inputs, cache)
            for following in [*slabs[1:], None]:
                found = coming.result()
                if following is not None:
                    coming = pool.submit(self._read, batch, *following, inputs, cache)
                yield found
                del found

    def _read(
        self, batch: Batch, start: int, stop: int, inputs: Mapping[Any, Any], cache: OpenCache
    ) -> tuple[int, RowBlock, KeptBlock]:
        kept = cache.find(start, stop)
        return start, self.read(batch, start, stop, inputs, kept), kept

    def _slab(self, start: int, block: RowBlock, kept: KeptBlock, cache: OpenCache) -> Slab:
        """Complete a slab, and keep what was read of it."""
        names = [kind.name for kind in self.beside]
        arrays, sums, is_kept, reading = [], [], False, Reading()
        for place, values in enumerate([block.rows, *(block.beside[name] for name in names)]):
            known, n_bytes = kept.get(place), len(block) * self.row_bytes[place]
            reading += Reading(n_bytes) if known is None else Reading(0, n_bytes)
            total = checksum_of(values) if known is None or known.checksum is None else known.checksum
            known = known or cache.keep(place, start, values, total)
            arrays.append(values if known is None else known.values)
            sums.append(total)
            is_kept |= known is not None
        block = RowBlock(arrays[0], dict(zip(names, arrays[1:], strict=True)))
        checksum = Checksum(len(block), sums[0], dict(zip(names, sums[1:], strict=True)))
        return Slab(start, block, checksum, reading, is_kept)

    def read(
        self, batch: Batch, start: int, stop: int, inputs: Mapping[Any, Any], kept: KeptBlock = _NOTHING
    ) -> RowBlock:
        """Read one slab, except for sources of which rows are ``kept``.

        Raises
        ------
        DataChangedError
            If the rows or entries that come differ from the data set's in number or width.
        """
        (rows_part, *parts), (rows_handle, *handles) = batch.parts, self.handles
        if 0 in kept:
            rows = kept[0].values
        else:
            rows = rows_part.read(rows_handle, inputs, start, stop)
            if rows.shape[1:] != (self.n_features,):  # some widths would broadcast
                raise _other_width("X", (self.n_features,), rows, start, stop)
            # Sums are grouped otherwise where arrays have gaps, or lie off the bounds of words, as what travelled may.
            rows = np.require(rows, requirements="A")
        beside = {}
        for place, (kind, part, handle) in enumerate(zip(self.beside, parts, handles, strict=True), 1):
            beside[kind.name] = (
                kept[place].values if place in kept else kind.converted(part.read(handle, inputs, start, stop))
            )
        _check_length("X", rows, start, stop)
        for kind in self.beside:
            self._check_entries(kind, beside[kind.name], start, stop)
        return RowBlock(rows, beside)

    def _check_entries(self, kind: AlignedInput, values: Array, start: int, stop: int) -> None:
        _check_length(kind.name, values, start, stop)
        width = kind.shape(stop - start, self.n_features)[1:]
        if values.shape[1:] != width:
            raise _other_width(kind.name, width, values, start, stop)

    def checksum(self, batch: Batch, start: int, stop: int, inputs: Mapping[Any, Any]) -> Checksum:
        """Return the checksum of rows ``start`` to ``stop`` of a batch; only slabs that hold some of them are read."""
        found = Checksum()
        for begin, end in self.slabs(batch):
            first, last = max(begin, start), min(end, stop)
            if first < last:
                found += Checksum.of(self.read(batch, begin, end, inputs)[first - begin : last - begin])
        return found


def _other_width(name: str, width: tuple[int, ...], values: Array, start: int, stop: int) -> DataChangedError:
    expected = f"{width[0]} columns" if width else "one dimension"
    return DataChangedError(
        f"{name}: rows {start} to {stop} were expected to have {expected}, but an array of shape {values.shape} came. "
        "The blocks of a dask array are not what its metadata say."
    )


def _check_length(name: str, values: Array, start: int, stop: int) -> None:
    if len(values) != stop - start:
        raise DataChangedError(
            f"{name}: rows {start} to {stop} were expected to be {stop - start} rows, but "
            f"{len(values)} came. The data changed while they were read, or a dask array's chunks are not what "
            "it says; call x.compute_chunk_sizes() on it, or pass data that hold still."
        )


class _Column(DerivedSource):
    """Sample weights as rows of one feature."""

    def __init__(self, weights: Source) -> None:
        super().__init__(weights, (*weights.shape, 1), weights.dtype)
        self.cacheable = False  # one pass reads them in this form

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
        _check_length(SAMPLE_WEIGHT.name, weights, start, stop)
        return weights.reshape(-1, 1)


@dataclass(frozen=True)
class Dataset:
    """Rows, and the inputs that are aligned with them."""

    rows: Source
    beside: Mapping[AlignedInput, Source] = field(default_factory=dict)
    """Source of every aligned input, with as many entries as there are rows."""
    guard: ChecksumGuard = field(default_factory=ChecksumGuard, compare=False)
    """Checksum of the passes so far."""
    row_kind: RowKind = COMPLETE_ROWS
    """Kind of the rows, by which kernels and checks of values are chosen."""

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
        """Dtype of the rows."""
        return self.rows.dtype

    @property
    def weights(self) -> Source | None:
        """Sample weights; None where every row counts the same."""
        return self.beside.get(SAMPLE_WEIGHT)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every source, that of the rows first."""
        return (self.rows, *self.beside.values())

    def with_sources(self, change: Callable[[Source], Source]) -> Dataset:
        """Return the data set with every source replaced by another source of the same values."""
        beside = {kind: change(source) for kind, source in self.beside.items()}
        return replace(self, rows=change(self.rows), beside=beside)

    def at(self, address: str | None) -> Dataset:
        """Return the data set with the address of the file that its rows come from, unless the rows have an address."""
        if address is None or self.rows.address is not None:
            return self
        return replace(self, rows=self.rows.at(address))

    def with_input(self, kind: AlignedInput, source: Source) -> Dataset:
        """Return a data set with one aligned input more, or another source for it; no pass has seen the data set."""
        return Dataset(self.rows, {**self.beside, kind: source}, row_kind=self.row_kind)

    def known_complete(self) -> Dataset:
        """Return the data set once a pass has found that no row is incomplete: later passes need not look."""
        return replace(self, row_kind=self.row_kind.known_complete)

    @property
    def in_process(self) -> bool:
        """True for rows in this process's memory."""
        return self.rows.in_process

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a `RowBlock`, aligned inputs included."""
        return self.rows.row_bytes + sum(kind.row_bytes(self.n_features) for kind in self.beside)

    def held_bytes(self, n_rows: int) -> int:
        """Size of the values of detached tasks that reading ``n_rows`` rows needs."""
        return sum(source.held_bytes(n_rows) for source in self.sources)

    @property
    def cacheable_bytes(self) -> int:
        """Bytes of all rows and entries that are worth keeping between passes."""
        kinds = dict(zip(self.sources, (None, *self.beside), strict=True))
        sizes = {
            source: source.row_bytes if kind is None else kind.row_bytes(self.n_features)
            for source, kind in kinds.items()
        }
        return self.n_rows * sum(size for source, size in sizes.items() if source.cacheable)

    @property
    def cuts(self) -> Array | None:
        """Row numbers where reads have to start and stop; None: anywhere."""
        return _first_cuts(self.sources)

    def reader(self, slab_bytes: int, access: CacheAccess = NOT_KEPT) -> Reader:
        """Return the reader of any batch, about ``slab_bytes`` of rows at a time, with access to kept rows."""
        return Reader(
            tuple(source.handle for source in self.sources),
            tuple(self.beside),
            self.n_features,
            # Rows that take nothing to read, because they are in memory, are read in one piece.
            max(1, slab_bytes // max(1, self.rows.row_bytes) if self.rows.reading_bytes(1) else self.n_rows),
            self.rows.chunk_rows,
            self.reads_ahead,
            tuple(source.row_bytes for source in self.sources),
            access,
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
        """Return the batch of rows ``start`` to ``stop``, which a task needs beside the reader."""
        return Batch(start, stop, tuple(source.part(start, stop) for source in self.sources))

    def block(self) -> RowBlock:
        """Return all rows of a data set in memory."""
        return self.reader(0).read(self.batch(0, self.n_rows), 0, self.n_rows, {})

    @property
    def weights_alone(self) -> Dataset:
        """The weights as rows of one feature."""
        if self.weights is None:
            raise ValueError("a data set without weights")
        return Dataset(_Column(self.weights), row_kind=self.row_kind)

    def check_unchanged(self, checksum: Checksum) -> None:
        """Raise unless a finished pass saw the same data as the passes before, and stores still say the same; cheap.

        Parameters
        ----------
        checksum : Checksum
            Checksum of the finished pass.

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
