"""Results for samples on a grid, written into a Zarr group region by region, with the coordinates of the samples.

A task computes all results of a block, or of an equal part of a block whose results would be large. Chunks of the
results are as long as the longest of these. If blocks are uneven, results of neighbours are joined before they are
written, so that no two tasks write the same chunk.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr

from ..errors import DimensionError, NonFiniteDataError, UnsupportedDataError
from ..tuning import current
from .dask_blocks import dense
from .dimensions import shown
from .input_kinds import Grid
from .output import RowFunction, RowOutput, apply_rows
from .raveling import Raveling, block_lengths
from .row_arrays import RowWriter, create_arrays

Array = np.ndarray[Any, np.dtype[Any]]


_LARGEST_SLABS = 4  # slabs that the results for a block may take


def in_blocks(rows: Any, grid: Grid, result_bytes: int) -> tuple[da.Array, Grid]:
    """Return rows as a dask array, and the grid with the order of its blocks.

    Rows in memory are cut into slabs, and lazy blocks if their results would be larger than a few slabs.

    Parameters
    ----------
    rows : numpy.ndarray or dask.array.Array
    grid : Grid
    result_bytes : int
        Size of all results of one row.
    """
    if isinstance(rows, da.Array):
        return _cut(rows, grid, result_bytes)
    shape = grid.raveling.shape
    # Blocks grow along the last axes first, so the rows of a block follow each other.
    lengths = block_lengths(shape, (1,) * len(shape), (), rows.dtype.itemsize * rows.shape[1], current().slab_bytes)
    raveling = Raveling(shape, da.core.normalize_chunks(lengths, shape))
    blocks = da.from_array(rows, chunks=(raveling.row_chunks, rows.shape[1]), name=False, asarray=False)
    return blocks, replace(grid, raveling=raveling)


def _cut(rows: da.Array, grid: Grid, result_bytes: int) -> tuple[da.Array, Grid]:
    """Cut blocks whose results would be larger than a few slabs into equal parts, along the first axes first."""
    longest, limit = chunk_lengths(grid.raveling), _LARGEST_SLABS * current().slab_bytes
    if math.prod(longest) * result_bytes <= limit:
        return rows, grid
    most = block_lengths(longest, (1,) * len(longest), (), result_bytes, limit)
    parts = tuple(-(-length // -(-length // part)) for length, part in zip(longest, most, strict=True))
    values = grid.raveling.grid(rows).rechunk(dict(enumerate(parts)))
    raveling = Raveling.of(values)
    return raveling.rows(values), replace(grid, raveling=raveling)


@contextmanager
def numbered(raveling: Raveling, own: Raveling) -> Iterator[None]:
    """Give the number that a sample has in its ``own`` order to an error in the ``with`` block that names a row."""
    try:
        yield
    except NonFiniteDataError as error:
        row = own.row(raveling.position(error.row))
        error.args = (str(error).replace(f"row {error.row}", f"row {row}", 1),)
        error.row = row
        raise


def chunk_lengths(raveling: Raveling) -> tuple[int, ...]:
    """Lengths of the chunks of results: those of the blocks, or of the longest ones if they are uneven."""
    return tuple(max(1, *lengths) for lengths in raveling.chunks or ())


def check_coordinates(grid: Grid, outputs: Sequence[RowOutput]) -> None:
    """Raise for coordinates that cannot be written beside the results; cheap, to be called before any work.

    Raises
    ------
    DimensionError
        If names of coordinates or dimensions are those of results.
    UnsupportedDataError
        If a coordinate is an index of several levels.
    """
    names = {output.title for output in outputs} | {o.column_dim for o in outputs if o.n_columns is not None}
    coords = () if grid.coords is None else tuple(grid.coords.coords)
    if taken := [name for name in (*(grid.dims or ()), *coords) if name in names]:
        raise DimensionError(
            f"X has a dimension or coordinate {taken[0]!r}, and so have the results to be written. Rename yours: "
            f"X.rename({taken[0]}='…')."
        )
    for name in coords:
        if getattr(grid.coords.indexes.get(name), "nlevels", 1) > 1:
            raise UnsupportedDataError(
                f"X has an index of several levels along {grid.coords[name].dims[0]!r}, which no store holds. Pass "
                f"X.reset_index({name!r}), or write the results of X before stack()."
            )


def create_grid_arrays(
    group: zarr.Group, grid: Grid, outputs: Sequence[RowOutput], fill_values: Mapping[str, float]
) -> RowWriter:
    """Create an array for every output, and write the coordinates."""
    shape, lengths, attributes = grid.raveling.shape, chunk_lengths(grid.raveling), {}
    if grid.coords is not None and (beside := [str(key) for key in grid.coords.coords if key not in grid.coords.dims]):
        attributes["coordinates"] = " ".join(beside)  # CF's attribute for coordinates that are no dimensions
    writer = create_arrays(group, outputs, fill_values, shape, lengths, grid.dims, attributes)
    if grid.coords is not None:
        columns = {o.column_dim: np.arange(o.n_columns) for o in outputs if o.n_columns is not None}
        _write_coordinates(group, grid.coords.assign_coords(columns), dict(zip(grid.dims or (), lengths, strict=True)))
    return writer


def _write_coordinates(group: zarr.Group, coords: Any, lengths: Mapping[Any, int]) -> None:
    """Write coordinates into a group, lazy ones in chunks of these lengths.

    Raises
    ------
    UnsupportedDataError
        If Zarr has no place for the values of a coordinate.
    """
    # The encoding is that of the file from which the coordinates were read: of another format, and of other chunks.
    coords = coords.drop_encoding()
    lazy = {key: one for key, one in coords.variables.items() if dask.is_dask_collection(one)}
    regular = {key: one.chunk({dim: lengths[dim] for dim in one.dims}) for key, one in lazy.items()}
    coords = coords.assign_coords({key: (one.dims, one.data, one.attrs) for key, one in regular.items()})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # texts have no place in the specification of Zarr 3 yet
            coords.to_zarr(group.store, group=group.path or None, mode="a", zarr_format=3, consolidated=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UnsupportedDataError(
            f"The coordinates {shown(list(coords.coords))} of X cannot all be written beside the results ({error}). "
            "Remove or convert those of mixed or unusual dtypes, for example X.drop_vars('name')."
        ) from error


def write_blocks(
    blocks: da.Array, grid: Grid, function: RowFunction, writer: RowWriter, on_rows: Callable[[int, int], None] | None
) -> da.Array:
    """Lazy numbers of the samples of each chunk, which are computed as the results of the chunk are written.

    Parameters
    ----------
    blocks : dask.array.Array
        Rows, all features in one block.
    grid : Grid
        Grid of these rows.
    function : RowFunction
    writer : RowWriter
    on_rows : callable or None
        Called with the number of a chunk and its number of samples.
    """
    dtype = np.dtype([_field(output) for output in function.outputs])
    shared = dask.delayed(function, pure=False, traverse=False)
    records = blocks.map_blocks(
        _records, function=shared, token="gmm-predict", dtype=dtype, meta=np.empty(0, dtype), drop_axis=1
    )
    results = grid.raveling.grid(records)
    lengths = chunk_lengths(grid.raveling)
    if results.chunks != (regular := da.core.normalize_chunks(lengths, results.shape)):
        results = results.rechunk(regular)
    return results.map_blocks(
        _write_chunk,
        writer=dask.delayed(writer, pure=False, traverse=False),
        on_rows=on_rows,
        token="gmm-write",
        chunks=tuple((1,) * len(along) for along in results.chunks),
        dtype=np.int64,
        meta=np.empty((0,) * results.ndim, np.int64),
    )


def _field(output: RowOutput) -> tuple[Any, ...]:
    return (output.name, output.dtype) if output.n_columns is None else (output.name, output.dtype, output.n_columns)


def _records(block: Any, function: RowFunction, block_info: Any = None) -> Array:
    """Compute all results for the rows of a block, as records."""
    start = block_info[0]["array-location"][0][0]
    results = apply_rows(dense(block), function, int(start))
    dtype = np.dtype([_field(output) for output in function.outputs])
    records = np.empty(len(block), dtype)
    for output, values in zip(function.outputs, results, strict=True):
        records[output.name] = values
    return records


def _write_chunk(records: Array, writer: RowWriter, on_rows: Any, block_info: Any = None) -> Array:
    """Write the results of a chunk."""
    info = block_info[0]
    region = tuple(slice(*ends) for ends in info["array-location"])
    place = f"Region {', '.join(f'{own.start}:{own.stop}' for own in region)}"
    writer.write_region(region, [records[name] for name in records.dtype.names or ()], place)
    if on_rows is not None:
        on_rows(int(np.ravel_multi_index(info["chunk-location"], info["num-chunks"])), records.size)
    return np.full((1,) * records.ndim, records.size)


def n_chunks(raveling: Raveling) -> int:
    """Number of chunks of the results."""
    return math.prod(-(-n // length) for n, length in zip(raveling.shape, chunk_lengths(raveling), strict=True))
