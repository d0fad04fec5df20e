"""Results for every row, written into a Zarr group chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from ..errors import StoreError
from ..tuning import current
from .output import RowOutput
from .output_locks import remove_remains
from .source import Source
from .store import describe
from .write import writing

Array = np.ndarray[Any, np.dtype[Any]]

# A chunk is a file: a smaller one takes longer to open than to read. With larger ones there would be few tasks.
_MOST_ROWS = 1 << 18
_FEWEST_CHUNKS = 64  # if the data have enough rows
_LARGEST_SLABS = 4  # slabs that a chunk of the fewest rows may take


@dataclass(frozen=True)
class StoredOutput:
    """Properties of the array in which an output is stored that do not follow from the output."""

    name: str
    fill_value: float
    """Value of the rows of a lost chunk, which cannot be a result."""
    attributes: Mapping[str, Any]


def create_arrays(
    group: zarr.Group, outputs: Sequence[RowOutput], stored: Mapping[str, StoredOutput], n_rows: int, chunk_rows: int
) -> RowWriter:
    """Create an array for every output.

    Parameters
    ----------
    group : zarr.Group
    outputs : sequence of RowOutput
    stored : mapping
        `StoredOutput` of every output, by the output's name.
    n_rows, chunk_rows : int
        Number of rows of the arrays, and of a chunk.
    """
    targets = []
    for output in outputs:
        columns = () if output.n_columns is None else (output.n_columns,)
        array = stored[output.name]
        targets.append(
            group.create_array(
                array.name,
                shape=(n_rows, *columns),
                chunks=(chunk_rows, *columns),
                dtype=output.dtype,
                fill_value=array.fill_value,
                attributes=dict(array.attributes),
                dimension_names=("row", "component")[: 1 + len(columns)],
            )
        )
    return RowWriter(tuple(targets))


@dataclass(frozen=True)
class RowWriter:
    """Writer of chunks of results; a chunk is written again if its task runs again."""

    targets: tuple[zarr.Array[Any], ...]

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
        for target, values in zip(self.targets, results, strict=True):
            _write(target, start, values)


def _write(target: zarr.Array[Any], start: int, values: Array) -> None:
    root = getattr(target.store, "root", None)
    if root is not None and not os.path.isdir(root):
        raise StoreError(f"{root} is gone: the run that was writing it has failed")
    stop = start + len(values)
    try:
        with writing(f"Rows {start} to {stop} of {describe(target)}"):
            target[start:stop] = values
    finally:
        if root is not None:
            remove_remains(str(root))


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
