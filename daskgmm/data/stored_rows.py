"""Zarr arrays as sources of rows: what is read is what was stored, or an error names the chunk.

Where attributes say how stored numbers become values (see `encoding`), values are what is handed out.

Zarr reads a chunk that is not in its store as the fill value, and a store that is gone as fill values throughout. So
whatever was read as nothing else is looked up: the chunk has to be there, or, where chunks may be left out, at least
the array. That costs a comparison of one number of each chunk, and a request for each that is all fill value.
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
from .blosc import checked
from .encoding import ATTRIBUTES, decoded, decoding_bytes, zarr_encoding
from .forks import check_decoder
from .retry import describe_error, may_pass, retried
from .source import LONGEST_ADDRESS, Source
from .store import address_of, describe, place_of
from .store_checks import check_archive, check_chunks, check_extent, product

Array = np.ndarray[Any, np.dtype[Any]]

_DOCUMENTS = {2: ".zarray", 3: "zarr.json"}
_COMMENTS = ("attributes", "dimension_names")  # of the metadata: what does not change how chunks are read


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a chunk, or of a shard, that lies in some rows."""

    coordinates: tuple[int, ...]
    """In the grid of chunks."""

    region: tuple[slice, ...]
    """Of the array."""

    def within(self, start: int) -> tuple[slice, ...]:
        """The region counted from row ``start``."""
        rows = self.region[0]
        return (slice(rows.start - start, rows.stop - start), *self.region[1:])


def part(
    shape: tuple[int, ...], size: tuple[int, ...], coordinates: tuple[int, ...], start: int = 0, stop: int | None = None
) -> Chunk:
    """Cut one chunk to the rows from ``start`` to ``stop``.

    Parameters
    ----------
    shape, size : tuple of int
        Of the array, and of its chunks.
    coordinates : tuple of int
    start, stop : int
    """
    lows, highs = (start, *(0 for _ in shape[1:])), (shape[0] if stop is None else stop, *shape[1:])
    region = (
        slice(max(low, i * n), min(high, (i + 1) * n))
        for i, n, low, high in zip(coordinates, size, lows, highs, strict=True)
    )
    return Chunk(coordinates, tuple(region))


class StoredRows:
    """A Zarr array, read row by row and checked.

    Parameters
    ----------
    array : zarr.Array
    reading : Reading
    name : str
        Of the parameter that the rows are for, in errors.
    """

    def __init__(self, array: zarr.Array[Any], reading: Reading, name: str = "X") -> None:
        self.array, self.reading, self.name = array, reading, name
        self.encoding = zarr_encoding(array, describe(array))
        self._checked = checked(array)
        self.chunks = tuple(max(1, n) for n in array.chunks)
        self.shards: tuple[int, ...] | None = array.shards
        fill = array.fill_value
        self.fill_value = np.asarray(0 if fill is None else fill)

    @property
    def files(self) -> tuple[int, ...]:
        """Shape of what lies under one key: shards, or chunks where there are none."""
        return self.shards or self.chunks

    def __getitem__(self, rows: slice) -> Array:
        """Some of the rows.

        Raises
        ------
        ChunkError
            If a chunk is missing, damaged, or cannot be read however often it is tried.
        StoreNotFoundError
            If the array is gone.
        StoreError
            If something that cannot be a chunk, such as a pipe, is in the place of one.
        NonFiniteDataError, InvalidWeightsError
            If a number is stored that means "missing".
        """
        start, stop, _ = rows.indices(self.array.shape[0])
        check_decoder(self.array)
        check_chunks(self.array, start, stop)
        stored = retried(
            lambda: self._read(start, stop),
            lambda attempts: self._read_by_chunks(start, stop, attempts),
            self.reading.retries,
            f"Rows {start} to {stop} of {self}",
        )
        return stored if self.encoding is None else decoded(self.encoding, stored, start, self.name, str(self))

    def __str__(self) -> str:
        return describe(self.array)

    def _read(self, start: int, stop: int) -> Array:
        values = np.asarray(self._checked[start:stop])
        for chunk in self._all_fill(values, start, stop):
            self._check_presence(chunk)
        return values

    def _read_by_chunks(self, start: int, stop: int, attempts: int) -> Array:
        """The same chunk by chunk, so that an error can name the one that it came from."""
        values = np.empty((stop - start, *self.array.shape[1:]), self.array.dtype)
        for chunk in self._chunks_in(start, stop):
            try:
                values[chunk.within(start)] = self._checked[chunk.region]
            except Exception as error:
                raise self._error(chunk, error, attempts) from error
        for chunk in self._all_fill(values, start, stop):
            try:
                self._check_presence(chunk)
            except (ChunkError, StoreNotFoundError):
                raise
            except Exception as error:
                raise self._error(chunk, error, attempts) from error
        return values

    def _chunks_in(self, start: int, stop: int) -> Iterator[Chunk]:
        rows = range(start // self.chunks[0], -(-stop // self.chunks[0]))
        others = (range(-(-n // size)) for n, size in zip(self.array.shape[1:], self.chunks[1:], strict=True))
        for coordinates in itertools.product(rows, *others):
            yield part(self.array.shape, self.chunks, coordinates, start, stop)

    # ---- chunks that are not there

    def _all_fill(self, values: Array, start: int, stop: int) -> Iterator[Chunk]:
        """Files of whose rows nothing but the fill value was read."""
        if not values.size:
            return
        first = start // self.files[0]
        begins = np.maximum(np.arange(first, -(-stop // self.files[0])) * self.files[0] - start, 0)
        corners = values[begins][(slice(None), *(slice(None, None, n) for n in self.files[1:]))]
        for row, *columns in np.argwhere(self._is_fill(corners)).tolist():
            chunk = part(self.array.shape, self.files, (first + row, *columns), start, stop)
            read = values[chunk.within(start)]
            if self._is_fill(read[:1]).all() and self._is_fill(read).all():
                yield chunk

    def _is_fill(self, values: Array) -> Array:
        same = values == self.fill_value
        return np.asarray(same | np.isnan(values) if self._fill_is_nan else same)

    @cached_property
    def _fill_is_nan(self) -> bool:
        return self.fill_value.dtype.kind == "f" and bool(np.isnan(self.fill_value))

    def _check_presence(self, chunk: Chunk) -> None:
        """Raise if a file is not there, or, where it may be left out, if the whole array is not there."""
        if not self.reading.fill_missing and self._holds(self._key(chunk.coordinates)):
            return
        self._check_existence(chunk)
        self._check_not_nested(chunk)
        if not self.reading.fill_missing:
            raise MissingChunkError(
                f"{self._rows_of(chunk, self.files)} are missing ({self._name(chunk, self.files)}): there is nothing "
                f"under {self._key(chunk.coordinates)!r}, and Zarr would read the fill value {self.fill_value}. "
                "Restore it. If this store leaves out what is nothing but fill value, as Zarr does by default, say so: "
                "dask.config.set({'daskgmm.missing-chunks': 'fill'}).",
                **self._place(chunk, self.files),
            )

    def _check_not_nested(self, chunk: Chunk) -> None:
        """Raise if a chunk of format 2 lies in directories that the metadata say nothing of, as Zarr 2.7 wrote them."""
        key = self._key(chunk.coordinates)
        nested = key.replace(".", "/")
        if self.array.metadata.zarr_format == 2 and nested != key and self._holds(nested):
            raise ChunkError(
                f"{self._rows_of(chunk, self.files)} ({self._name(chunk, self.files)}) are not where the metadata say: "
                f"there is nothing under {key!r}, but a chunk under {nested!r}, and Zarr would read the fill value "
                f"{self.fill_value}. The chunks are nested in directories. Say so in the file .zarray of this array: "
                '"dimension_separator": "/".',
                **self._place(chunk, self.files),
            )

    def _check_existence(self, chunk: Chunk) -> None:
        if not self._holds(_DOCUMENTS[self.array.metadata.zarr_format]):
            raise StoreNotFoundError(
                f"{self} is gone: it was there when it was opened, and has no metadata any more "
                f"({self._name(chunk, self.files)}, rows {chunk.region[0].start} to {chunk.region[0].stop}, was to be "
                "read). Restore it, or leave data alone while they are in use."
            )

    def _holds(self, key: str) -> bool:
        """Whether there is anything under a key.

        Asked by reading, because that alone tells "no" from "no answer". What holds nothing but the fill value is short
        if it is compressed at all. An empty file is nothing: Zarr reads an empty shard as the fill value, too.
        """
        try:
            found = sync(self.array.store.get(f"{self.array.path}/{key}".lstrip("/"), default_buffer_prototype()))
        except FileNotFoundError:
            return False
        return found is not None and len(found) > 0

    def _key(self, coordinates: tuple[int, ...]) -> str:
        return str(self.array.metadata.encode_chunk_key(coordinates))

    # ---- errors

    def _error(self, chunk: Chunk, error: Exception, attempts: int) -> StoreError | StoreNotFoundError:
        size = self.chunks
        try:
            self._check_existence(chunk)  # its name alone tells which chunk, of whatever size
        except StoreNotFoundError as gone:
            return gone
        except Exception:
            pass  # the error that is being told of comes first
        advice = (
            f"The storage failed {attempts + 1} times in a row; try again when it works, or more often: "
            "dask.config.set({'daskgmm.read-retries': 10})."
            if may_pass(error)
            else "The store is damaged or was changed; write it again, or restore it."
        )
        return ChunkError(
            f"{self._rows_of(chunk, size)} cannot be read "
            f"({self._name(chunk, size)}: {describe_error(error)}). {advice}",
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
    """Raise unless the stored metadata still say what they said when the array was opened.

    Parameters
    ----------
    array : zarr.Array
    retries : int
        Further attempts where the storage does not answer.

    Raises
    ------
    DataChangedError
        If shape, dtype, chunks or codecs are others.
    StoreNotFoundError
        If the array is gone.
    StoreError
        If the metadata cannot be read.
    """
    name = describe(array)
    opened, stored = _said(array.metadata), _said(_stored_metadata(array, name, retries))
    different = sorted(key for key in opened.keys() | stored.keys() if opened.get(key) != stored.get(key))
    if different:
        key = different[0]
        raise DataChangedError(
            f"{name} was changed while it was read: its metadata differ in {', '.join(different)} ({key} was "
            f"{opened.get(key)}, and is {stored.get(key)}). Use data that hold still, or a copy of them. If the array "
            "was opened through consolidated metadata of its group, these are older than the array: consolidate them "
            "anew, or pass the path instead of the array."
        )


def _stored_metadata(array: zarr.Array[Any], name: str, retries: int) -> Any:
    def read() -> Any:
        return sync(zarr.AsyncArray.open(array.store_path, zarr_format=array.metadata.zarr_format)).metadata

    def read_last(attempts: int) -> Any:
        try:
            return read()
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"{name} is gone: it was there when it was opened.") from error
        except Exception as error:
            raise StoreError(f"The metadata of {name} cannot be read any more ({describe_error(error)}).") from error

    return retried(read, read_last, retries, f"The metadata of {name}")


def _said(metadata: Any) -> dict[str, str]:
    """What metadata say of reading, as text: NaN is equal to itself there."""
    said = {name: value for name, value in metadata.to_dict().items() if name not in _COMMENTS}
    if isinstance(metadata.attributes, dict):
        said |= {name: metadata.attributes[name] for name in ATTRIBUTES if name in metadata.attributes}
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in said.items()}


class StoreSource(Source):
    """A Zarr array, read directly inside the tasks.

    Parameters
    ----------
    array : zarr.Array
    name : str
        Of the parameter that the rows are for, in errors.
    """

    kind = "Zarr array"
    reads_ahead = True

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

    def reading_bytes(self, n_rows: int) -> int:
        # Beside the rows, Zarr holds the chunks that it is reading, and decodes each into an array of its own.
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
        return tokenize(place, handle.array.path, _said(metadata), str(handle.encoding), handle.reading, handle.name)

    def check_unchanged(self) -> None:
        check_unchanged(self.handle.array, self.handle.reading.retries)

    def check_extent(self) -> None:
        check_extent(self.handle.array, str(self))


def _anchored(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The array by its absolute path: a worker in another directory finds no chunks, and reads fill values instead."""
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
