"""Results with one entry for each row: lazy where the data were lazy, and never all in one memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import dask.array as da
import numpy as np

from ..errors import NonFiniteDataError
from .blocks import dense
from .failures import tell_briefly
from .source import ranges
from .stored_rows import StoreSource

Array = np.ndarray[Any, np.dtype[Any]]
RowFunction = Callable[[Array, int], Array]
"""Called with rows and the number of the first of them, counted within its block where the lengths of the blocks before
it are not known; returns one entry for each row."""

_BLOCK_BYTES = 64 << 20


def as_blocks(data: Any, result_bytes: int = 0) -> da.Array:
    """Lazy dask array of the rows, all features in one chunk.

    Parameters
    ----------
    data : dask.array.Array or zarr.Array
        Zarr arrays are read in blocks of whole chunks or shards.
    result_bytes : int
        Size of what will be computed for each row; it shares the blocks' memory.
    """
    if isinstance(data, da.Array):
        return data if len(data.chunks[1]) == 1 else data.rechunk({1: -1})
    source = StoreSource(data)
    rows = max(1, _BLOCK_BYTES // max(1, source.row_bytes, result_bytes))
    step = max(source.batch_rows, rows // source.batch_rows * source.batch_rows)
    # A new name each time: Zarr's own token does not change when the data do.
    return da.from_array(
        _Rows(source),
        chunks=(step, data.shape[1]),
        name=f"gmm-rows-{uuid.uuid4().hex}",
        asarray=False,
        inline_array=False,
    )


class _Rows:
    """A Zarr array as dask's from_array wants it, read with every check."""

    def __init__(self, source: StoreSource) -> None:
        self._rows = source.handle
        self.shape, self.dtype, self.ndim = source.shape, source.dtype, len(source.shape)

    def __getitem__(self, index: tuple[slice, slice]) -> Array:
        return np.asarray(self._rows[index[0]][:, index[1]])


def map_rows(blocks: da.Array, function: RowFunction, dtype: Any, n_columns: int | None = None) -> da.Array:
    """Lazy results, chunked as the rows are.

    Parameters
    ----------
    blocks : dask.array.Array
        From `as_blocks`.
    function : RowFunction
    dtype : dtype
        Of the results.
    n_columns : int, optional
        Results for each row; None for one without an axis of its own.
    """
    # One node of the graph, so that parameters travel to a worker once and not with every block.
    shared = dask.delayed(function, pure=False, traverse=False)
    chunks = {"drop_axis": 1} if n_columns is None else {"chunks": (blocks.chunks[0], (n_columns,))}
    return blocks.map_blocks(
        _apply,
        function=shared,
        result_dtype=dtype,
        n_columns=n_columns,
        token="gmm-rows",
        dtype=dtype,
        meta=np.empty((0,) if n_columns is None else (0, 0), dtype),
        **chunks,
    )


def _apply(
    block: Any, function: RowFunction, result_dtype: Any, n_columns: int | None, block_info: Any = None
) -> Array:
    tell_briefly()
    start = block_info[0]["array-location"][0][0] if block_info else np.nan
    known = not np.isnan(start)
    first = int(start) if known else 0
    try:
        return apply_rows(dense(block), lambda rows, n: function(rows, first + n), result_dtype, n_columns, 1)
    except NonFiniteDataError as error:
        if known:
            raise
        raise NonFiniteDataError(error.row, is_nan=error.is_nan, within_chunk=True) from None


def apply_rows(rows: Array, function: RowFunction, dtype: Any, n_columns: int | None, n_threads: int) -> Array:
    """The same for rows in memory, at once: an array in memory."""
    result = np.empty((len(rows),) if n_columns is None else (len(rows), n_columns), dtype)

    def fill(span: tuple[int, int]) -> None:
        result[slice(*span)] = function(rows[slice(*span)], span[0])

    spans = list(ranges(0, len(rows), 1 << 15, 1, None))
    if len(spans) == 1 or n_threads == 1:
        for span in spans:
            fill(span)
        return result
    with ThreadPoolExecutor(n_threads, thread_name_prefix="gmm-rows") as pool:
        list(pool.map(fill, spans))
    return result
