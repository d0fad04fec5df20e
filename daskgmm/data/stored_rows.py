"""Zarr arrays as sources of rows, or of regions: reading returns what was stored, or raises an error with the chunk.

If attributes define an encoding (see `encoding`), reading returns the decoded values.

Zarr reads a missing chunk as the fill value, and a missing store as fill values throughout. So the presence of every
chunk that was read as fill values alone is checked: the chunk has to exist, or, if chunks may be missing, at least the
array. The cost is a comparison of one number of each chunk, and a request for each chunk of fill values.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dask.base import tokenize
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from ..config import Reading
from ..errors import ChunkError, DataChangedError, MissingChunkError, StoreError, StoreNotFoundError
from .addresses import Secrets
from .blosc import checked
from .encoding import ATTRIBUTES, decoded, decoding_bytes, zarr_encoding
from .forks import check_decoder
from .locations import address_of, describe, place_of, store_secrets
from .retry import describe_error, may_pass, retried
from .source import LONGEST_ADDRESS, Source
from .store_checks import check_archive, check_chunks, check_extent, product

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, ...]

_DOCUMENTS = {2: ".zarray", 3: "zarr.json"}
_COMMENTS = ("attributes", "dimension_names")  # entries of the metadata that do not affect the reading of chunks


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a chunk, or of a shard, in a region of the array."""

    coordinates: tuple[int, ...]
    """Coordinates in the grid of chunks."""

    region: Region
    """Region of the array."""

    def within(self, outer: Region) -> Region:
        """Region counted from the beginning of an outer region."""
        return tuple(
            slice(own.start - other.start, own.stop - other.start)
            for own, other in zip(self.region, outer, strict=True)
        )


def part(size: tuple[int, ...], coordinates: tuple[int, ...], region: Region) -> Chunk:
    """Cut one chunk to a region of the array.

    Parameters
    ----------
    size : tuple of int
        Shape of the chunks.
    coordinates : tuple of int
        Coordinates of the chunk in the grid of chunks.
    region : tuple of slice
        Region that the chunk overlaps.
    """
    cut = (
        slice(max(outer.start, i * n), min(outer.stop, (i + 1) * n))
        for i, n, outer in zip(coordinates, size, region, strict=True)
    )
    return Chunk(coordinates, tuple(cut))


def _chunks_of(region: Region, size: tuple[int, ...]) -> list[range]:
    """Coordinates of the chunks that a region overlaps, along each axis."""
    return [range(own.start // n, -(-own.stop // n)) for own, n in zip(region, size, strict=True)]


class StoredRows:
    """A Zarr array, read in ranges of rows and checked.

    Parameters
    ----------
    array : zarr.Array
    reading : Reading
    name : str
        Name of the parameter in errors.
    may_miss : bool
        Values that mean "missing" are NaN, and not an error.
    """

    def __init__(self, array: zarr.Array[Any], reading: Reading, name: str = "X", *, may_miss: bool = False) -> None:
        self.array, self.reading, self.name, self.may_miss = array, reading, name, may_miss
        self.encoding = zarr_encoding(array, describe(array))
        self._checked = checked(array)
        self.chunks = tuple(max(1, n) for n in array.chunks)
        self.shards: tuple[int, ...] | None = array.shards
        fill = array.fill_value
        self.fill_value = np.asarray(0 if fill is None else fill)

    @property
    def _secrets(self) -> Secrets:
        return store_secrets(self.array.store)

    @property
    def files(self) -> tuple[int, ...]:
        """Shape of the part of the array that is stored under one key: of a shard, or else a chunk."""
        return self.shards or self.chunks

    def __getitem__(self, rows: slice | Region) -> Array:
        """Read a range of rows, or a region: a range along each axis.

        Raises
        ------
        ChunkError
            If a chunk is missing, damaged, or cannot be read in any attempt.
        StoreNotFoundError
            If the array is gone.
        StoreError
            If the key of a chunk leads to something that cannot be a chunk, such as a pipe.
        NonFiniteDataError, InvalidWeightsError
            If a value is missing.
        """
        region = self._region(rows)
        check_decoder(self.array)
        check_chunks(self.array, region)
        stored = retried(
            lambda: self._read(region),
            lambda attempts: self._read_by_chunks(region, attempts),
            self.reading.retries,
            f"{_named(region)} of {self}",
            lambda text: self._secrets.hide(text),
        )
        if self.encoding is None:
            return stored
        return decoded(self.encoding, stored, region[0].start, self.name, str(self), may_miss=self.may_miss)

    def _region(self, rows: slice | Region) -> Region:
        """Ranges along all axes, with known bounds."""
        shape = self.array.shape
        ranges = (rows,) if isinstance(rows, slice) else rows
        ranges = (*ranges, *(slice(None) for _ in shape[len(ranges) :]))
        return tuple(slice(*own.indices(n)[:2]) for own, n in zip(ranges, shape, strict=True))

    def with_missing(self) -> StoredRows:
        """Return the same rows, in which values that mean "missing" are NaN."""
        return StoredRows(self.array, self.reading, self.name, may_miss=True)

    def __str__(self) -> str:
        return describe(self.array)

    def _read(self, region: Region) -> Array:
        values = np.asarray(self._checked[region])
        for chunk in self._all_fill(values, region):
            self._check_presence(chunk)
        return values

    def _read_by_chunks(self, region: Region, attempts: int) -> Array:
        """Read a region chunk by chunk, so that an error can name the chunk."""
        values = np.empty(tuple(own.stop - own.start for own in region), self.array.dtype)
        for coordinates in itertools.product(*_chunks_of(region, self.chunks)):
            chunk = part(self.chunks, coordinates, region)
            try:
                values[chunk.within(region)] = self._checked[chunk.region]
            except Exception as error:
                raise self._error(chunk, error, attempts) from self._secrets.cause(error)
        for chunk in self._all_fill(values, region):
            try:
                self._check_presence(chunk)
            except (ChunkError, StoreNotFoundError):
                raise
            except Exception as error:
                raise self._error(chunk, error, attempts) from self._secrets.cause(error)
        return values

    # ---- missing chunks

    def _all_fill(self, values: Array, region: Region) -> Iterator[Chunk]:
        """Chunks (or shards) whose part of a region was read as the fill value alone."""
        if not values.size:
            return
        chunks = _chunks_of(region, self.files)
        begins = [
            np.maximum(np.array(along) * n - own.start, 0)
            for along, n, own in zip(chunks, self.files, region, strict=True)
        ]
        for place in np.argwhere(self._is_fill(values[np.ix_(*begins)])).tolist():
            coordinates = tuple(along[i] for along, i in zip(chunks, place, strict=True))
            chunk = part(self.files, coordinates, region)
            read = values[chunk.within(region)]
            if self._is_fill(read[:1]).all() and self._is_fill(read).all():
                yield chunk

    def _is_fill(self, values: Array) -> Array:
        same = values == self.fill_value
        return np.asarray(same | np.isnan(values) if self._fill_is_nan else same)

    @cached_property
    def _fill_is_nan(self) -> bool:
        return self.fill_value.dtype.kind == "f" and bool(np.isnan(self.fill_value))

    def _check_presence(self, chunk: Chunk) -> None:
        """Raise if a chunk is missing, or, if chunks may be missing, if the whole array is."""
        if not self.reading.fill_missing and self._holds(self._key(chunk.coordinates)):
            return
        self._check_existence(chunk)
        self._check_not_nested(chunk)
        if not self.reading.fill_missing:
            raise MissingChunkError(
                f"{self._rows_of(chunk, self.files)} are missing ({self._name(chunk, self.files)}): there is nothing "
                f"under {self._key(chunk.coordinates)!r}, and Zarr would read the fill value {self.fill_value}. "
                "Restore it. If this store omits chunks of fill values, as Zarr does by default, allow missing chunks: "
                "dask.config.set({'daskgmm.missing-chunks': 'fill'}).",
                **self._place(chunk, self.files),
            )

    def _check_not_nested(self, chunk: Chunk) -> None:
        """Raise if a chunk of format 2 is in nested directories that the metadata do not declare, as of Zarr 2.7."""
        key = self._key(chunk.coordinates)
        nested = key.replace(".", "/")
        if self.array.metadata.zarr_format == 2 and nested != key and self._holds(nested):
            raise ChunkError(
                f"{self._rows_of(chunk, self.files)} ({self._name(chunk, self.files)}) are not where the metadata say: "
                f"there is nothing under {key!r}, but a chunk under {nested!r}, and Zarr would read the fill value "
                f"{self.fill_value}. The chunks are nested in directories. Add to the file .zarray of this array: "
                '"dimension_separator": "/".',
                **self._place(chunk, self.files),
            )

    def _check_existence(self, chunk: Chunk) -> None:
        if not self._holds(_DOCUMENTS[self.array.metadata.zarr_format]):
            raise StoreNotFoundError(
                f"{self} is gone: it was there when it was opened, and has no metadata any more "
                f"({self._name(chunk, self.files)}, rows {chunk.region[0].start} to {chunk.region[0].stop}, was to be "
                "read). Restore it, and do not move or remove data while they are in use. Worker processes must see "
                "the same storage: memory:// belongs to one process, and a local disk to one machine."
            )

    def _holds(self, key: str) -> bool:
        """Return True if there are bytes under a key.

        The key is read, because only reading tells a missing key from a store that does not answer. A compressed chunk
        of fill values is short. An empty file counts as missing: Zarr reads an empty shard as the fill value, too.
        """
        try:
            content = sync(self.array.store.get(f"{self.array.path}/{key}".lstrip("/"), default_buffer_prototype()))
        except FileNotFoundError:
            return False
        return content is not None and len(content) > 0

    def _key(self, coordinates: tuple[int, ...]) -> str:
        return str(self.array.metadata.encode_chunk_key(coordinates))

    # ---- errors

    def _error(self, chunk: Chunk, error: Exception, attempts: int) -> StoreError | StoreNotFoundError:
        size = self.chunks
        try:
            self._check_existence(chunk)  # the array may be gone
        except StoreNotFoundError as gone:
            return gone
        except Exception:
            pass  # the original error is reported
        advice = (
            f"The storage failed {attempts + 1} times in a row; try again when it works, or more often: "
            "dask.config.set({'daskgmm.read-retries': 10})."
            if may_pass(error)
            else "The store is damaged or was changed; write it again, or restore it."
        )
        return ChunkError(
            f"{self._rows_of(chunk, size)} cannot be read "
            f"({self._name(chunk, size)}: {self._secrets.hide(describe_error(error))}). {advice}",
            **self._place(chunk, size),
        )

    def _rows_of(self, chunk: Chunk, size: tuple[int, ...]) -> str:
        first, last = self._rows(chunk, size)
        return f"Rows {first} to {last} of {self}"

    def _name(self, chunk: Chunk, size: tuple[int, ...]) -> str:
        return f"{'shard' if self.shards and size == self.files else 'chunk'} {chunk.coordinates}"

    def _place(self, chunk: Chunk, size: tuple[int, ...]) -> dict[str, Any]:
        return {"store": str(self), "chunk": chunk.coordinates, "rows": self._rows(chunk, size)}

    def _rows(self, chunk: Chunk, size: tuple[int, ...]) -> tuple[int, int]:
        first = chunk.coordinates[0] * size[0]
        return first, min(first + size[0], self.array.shape[0])


def check_unchanged(array: zarr.Array[Any], retries: int = 0) -> None:
    """Raise if the stored metadata have changed since the array was opened.

    Parameters
    ----------
    array : zarr.Array
    retries : int
        Further attempts if the storage fails.

    Raises
    ------
    DataChangedError
        If shape, dtype, chunks, codecs or the encoding have changed.
    StoreNotFoundError
        If the array is gone.
    StoreError
        If the metadata cannot be read.
    """
    name = describe(array)
    opened, stored = _entries(array.metadata), _entries(_stored_metadata(array, name, retries))
    different = sorted(key for key in opened.keys() | stored.keys() if opened.get(key) != stored.get(key))
    if different:
        key = different[0]
        raise DataChangedError(
            f"{name} was changed while it was read: its metadata differ in {', '.join(different)} ({key} was "
            f"{opened.get(key)}, and is {stored.get(key)}). Use data that do not change, or a copy of "
            "them. If the array was opened through consolidated metadata of its group, these are older than the array: "
            "consolidate them again, or pass the path instead of the array."
        )


def _stored_metadata(array: zarr.Array[Any], name: str, retries: int) -> Any:
    secrets = store_secrets(array.store)

    def read() -> Any:
        return sync(zarr.AsyncArray.open(array.store_path, zarr_format=array.metadata.zarr_format)).metadata

    def read_last(attempts: int) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"{name} is gone: it was there when it was opened.") from error
        except Exception as error:
            reason = secrets.hide(describe_error(error))
            raise StoreError(f"The metadata of {name} cannot be read any more ({reason}).") from secrets.cause(error)

    return retried(read, read_last, retries, f"The metadata of {name}", secrets.hide)


def _entries(metadata: Any) -> dict[str, str]:
    """Entries of the metadata that affect reading, as text: in text, NaN equals NaN."""
    entries = {name: value for name, value in metadata.to_dict().items() if name not in _COMMENTS}
    if isinstance(metadata.attributes, dict):
        entries |= {name: metadata.attributes[name] for name in ATTRIBUTES if name in metadata.attributes}
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in entries.items()}


def _named(region: Region) -> str:
    """Name of a region in errors: its rows."""
    return f"Rows {region[0].start} to {region[0].stop}"


class StoreSource(Source):
    """A Zarr array, read directly inside the tasks.

    Parameters
    ----------
    array : zarr.Array
    name : str
        Name of the parameter in errors.
    """

    kind = "Zarr array"
    reads_ahead = True
    cacheable = True

    def __init__(self, array: zarr.Array[Any], name: str = "X") -> None:
        check_archive(array)
        self.handle = StoredRows(_anchored(array), Reading.configured(), name)
        self.shape = array.shape
        encoding = self.handle.encoding
        self.dtype = np.dtype(array.dtype) if encoding is None else encoding.dtype
        self.address = address_of(array, LONGEST_ADDRESS)
        self.chunk_rows = self.handle.chunks[0]
        self.batch_rows = self.handle.files[0]
        self._is_compressed = bool(self.handle.shards or array.compressors or array.filters)

    def __str__(self) -> str:
        return str(self.handle)

    def with_missing(self) -> Source:
        return self.with_handle(self.handle.with_missing())

    def reading_bytes(self, n_rows: int) -> int:
        # Besides the rows, Zarr holds the chunks that it is reading, and decodes each into a separate array.
        at_once = min(n_rows, self.chunk_rows * int(zarr.config.get("async.concurrency") or n_rows))
        width = product(self.shape[1:])
        stored = width * np.dtype(self.handle.array.dtype).itemsize
        values = decoding_bytes(self.handle.encoding, n_rows * width)
        return (n_rows + (2 if self._is_compressed else 1) * at_once) * stored + values

    def place(self, start: int, stop: int) -> str:
        first, last = start // self.chunk_rows, -(-stop // self.chunk_rows) - 1
        chunks = f"chunk {first}" if first == last else f"chunks {first} to {last}"
        return f"rows {start} to {stop} of {self.handle} ({chunks} along the rows)"

    def identity(self) -> Any:
        place = place_of(self.handle.array.store)
        if place is None:
            return None
        handle, metadata = self.handle, self.handle.array.metadata
        decoding = str(handle.encoding), handle.may_miss
        return tokenize(place, handle.array.path, _entries(metadata), decoding, handle.reading, handle.name)

    def check_unchanged(self) -> None:
        check_unchanged(self.handle.array, self.handle.reading.retries)

    def check_extent(self) -> None:
        check_extent(self.handle.array, str(self))


def _anchored(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Open a local array by its absolute path: a worker in another directory would read fill values instead."""
    store, place = array.store, _folder_or_archive(array.store)
    if place is None or place.is_absolute():
        return array
    anchored: Any = (
        zarr.storage.ZipStore(place.absolute(), mode="r")
        if isinstance(store, zarr.storage.ZipStore)
        else zarr.storage.LocalStore(place.absolute(), read_only=True)
    )
    return zarr.open_array(anchored, path=array.path, mode="r")


def _folder_or_archive(store: Any) -> Path | None:
    if isinstance(store, zarr.storage.ZipStore):
        return store.path if store.read_only else None
    root = getattr(store, "root", None)
    return root if isinstance(root, Path) else None
