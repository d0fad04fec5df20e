"""Results for every row, written into a Zarr group chunk by chunk."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from ..errors import OutputError, StoreError
from ..tuning import current
from .locations import describe, innermost, store_secrets
from .output import RowOutput
from .output_locks import remove_remains
from .retry import describe_error
from .source import Source
from .write import writing

Array = np.ndarray[Any, np.dtype[Any]]

# A chunk is a file: a smaller one takes longer to open than to read. With larger ones there would be few tasks.
_MOST_ROWS = 1 << 18
_FEWEST_CHUNKS = 64  # if the data have enough rows
_LARGEST_SLABS = 4  # slabs that a chunk of the fewest rows may take


def create_arrays(
    group: zarr.Group,
    outputs: Sequence[RowOutput],
    fill_values: Mapping[str, float],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dims: tuple[str, ...] | None = ("row",),
    attributes: Mapping[str, Any] = MappingProxyType({}),
) -> RowWriter:
    """Create an array for every output, named by the output's title.

    Parameters
    ----------
    group : zarr.Group
    outputs : sequence of RowOutput
    fill_values : mapping
        Values of lost chunks, which cannot be results, by the output's name.
    shape, chunks : tuple of int
        Lengths of the sample dimensions, and of a chunk: (n,) for rows.
    dims : tuple of str or None
        Names of the sample dimensions.
    attributes : mapping
        Attributes of all arrays, beside those of the outputs.
    """
    targets = []
    for output in outputs:
        columns = () if output.n_columns is None else (output.n_columns,)
        names = None if dims is None else (*dims, *(output.column_dim for _ in columns))
        targets.append(
            group.create_array(
                output.title,
                shape=(*shape, *columns),
                chunks=(*chunks, *columns),
                dtype=output.dtype,
                fill_value=fill_values[output.name],
                attributes=dict(output.attributes) | dict(attributes),
                config={"write_empty_chunks": True},  # a missing chunk is always damage, of flags too
                dimension_names=names,
            )
        )
    return RowWriter(tuple(targets))


@dataclass(frozen=True)
class RowWriter:
    """Writer of chunks of results; a chunk is written again if its task runs again."""

    targets: tuple[zarr.Array[Any], ...]

    def check_travels(self) -> None:
        """Raise `OutputError` if worker processes cannot write into the store."""
        for target in self.targets:
            _check_travels(target)

    def check_complete(self) -> None:
        """Raise `OutputError` unless every chunk is in the store, as this process sees the store.

        Worker processes may have written into copies of a store that is in the memory of this process.
        """
        for target in self.targets:
            if isinstance(target.store, LocalStore):
                continue
            with writing(describe(target), target):
                n_chunks, n_written = target.nchunks, target.nchunks_initialized
            if n_written < n_chunks:
                raise OutputError(
                    f"{n_chunks - n_written} of {n_chunks} chunks of {describe(target)} did not arrive: "
                    f"{_NOT_SHARED.format(type(target.store).__name__)}"
                )

    def write(self, start: int, results: Sequence[Array]) -> None:
        """Write one chunk of every array.

        Parameters
        ----------
        start : int
            Number of the first row.
        results : sequence of array
            Results for each array.

        Raises
        ------
        StoreError
            If the store was discarded because its run has failed.
        OutputError
            If the storage is full or fails; the message names rows and array.
        """
        stop = start + len(results[0])
        self.write_region((slice(start, stop),), results, f"Rows {start} to {stop}")

    def write_region(self, region: tuple[slice, ...], results: Sequence[Array], name: str) -> None:
        """Write the results for a region of the samples, which consists of whole chunks; see `write`.

        Parameters
        ----------
        region : tuple of slice
            Range along each sample dimension.
        results : sequence of array
        name : str
            Name of the region in errors.
        """
        for target, values in zip(self.targets, results, strict=True):
            _write(target, region, values, name)


_NOT_SHARED = (
    "worker processes do not write into this {}, but into copies of it. Use scheduler='threads', or a path or URL that "
    "all processes see."
)


def _check_travels(target: zarr.Array[Any]) -> None:
    """Raise `OutputError` if the store of an array is in the memory of this process, or cannot be pickled."""
    store = innermost(target.store)
    if isinstance(store, MemoryStore):
        raise OutputError(f"{describe(target)} cannot be written: {_NOT_SHARED.format(type(store).__name__)}")
    if isinstance(store, LocalStore):
        return
    try:
        pickle.dumps(store)
    except Exception as error:
        secrets = store_secrets(store)
        raise OutputError(
            f"{describe(target)} cannot be written by worker processes: a {type(store).__name__} does not travel "
            f"({secrets.hide(describe_error(error))}). Use scheduler='threads', or a path or URL that all processes "
            "see."
        ) from secrets.cause(error)


def _write(target: zarr.Array[Any], region: tuple[slice, ...], values: Array, name: str) -> None:
    root = target.store.root if isinstance(target.store, LocalStore) else None
    _check_there(target, root)
    try:
        with writing(f"{name} of {describe(target)}", target):
            target[region] = values
    finally:
        if root is not None:
            remove_remains(str(root))


def _check_there(target: zarr.Array[Any], root: Path | None) -> None:
    """Raise `StoreError` if the array was discarded, or if this process does not see the array."""
    if root is not None:
        if not os.path.isdir(root):
            raise StoreError(f"{root} is gone: the run that was writing it has failed")
        return
    with writing(describe(target), target):
        there = sync(target.store.exists(f"{target.path}/zarr.json".lstrip("/")))
    if not there:
        raise StoreError(
            f"{describe(target)} is not there: the run that was writing it has failed, or this process does not see "
            f"the store. In the latter case, {_NOT_SHARED.format(type(target.store).__name__)}"
        )


def result_rows(source: Source, result_bytes: int) -> int:
    """Number of rows of a chunk of the results: about a slab of rows, or of results if these are larger.

    If possible, the number is a multiple or a divisor of the rows in a stored chunk, because otherwise rows of several
    reads have to be joined.

    Parameters
    ----------
    source : Source
    result_bytes : int
        Size of all results of one row.
    """
    n_rows, bytes_of_row = source.shape[0], max(1, source.row_bytes, result_bytes)
    fewest = min(current().fewest_result_rows, _LARGEST_SLABS * current().slab_bytes // bytes_of_row)
    most = min(_MOST_ROWS, max(current().fewest_result_rows, n_rows // _FEWEST_CHUNKS))
    aim = max(1, fewest, min(most, current().slab_bytes // bytes_of_row))
    return min(n_rows, _aligned(aim, max(1, fewest), _stored_rows(source)))


def _stored_rows(source: Source) -> int:
    """Number of rows that are stored together; 1 if the number varies."""
    if source.cuts is None:
        return source.batch_rows
    lengths = np.diff(source.cuts)
    lengths = lengths[lengths > 0]
    return int(lengths[0]) if len(lengths) and (lengths[:-1] == lengths[0]).all() else 1


def _aligned(aim: int, fewest: int, unit: int) -> int:
    """Number of rows near ``aim``: a multiple of a shorter unit, or an equal part of a longer one."""
    if unit <= aim:
        return max(aim // unit, -(-fewest // unit)) * unit
    parts = (unit // n for n in range(unit // aim, 0, -1) if unit % n == 0)
    return next((part for part in parts if part <= _LARGEST_SLABS * aim), aim)
