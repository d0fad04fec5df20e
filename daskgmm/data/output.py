"""Results with one entry for each row: lazy where the data were lazy, and never all in one memory."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import dask
import dask.array as da
import numpy as np

from ..errors import NonFiniteDataError
from .dask_blocks import dense
from .failures import tell_briefly
from .source import SLAB_BYTES, Source, ranges

Array = np.ndarray[Any, np.dtype[Any]]

# Stored chunks that are smaller are joined to such blocks, where there are many of them: a block costs about what it
# takes to compute 10 000 rows.
_BLOCK_BYTES, _MANY_CHUNKS = 1 << 20, 1000

_SPAN_ROWS = 1 << 15  # that a thread works on at a time


@dataclass(frozen=True)
class RowOutput:
    """A kind of result with one entry for each row."""

    name: str
    dtype: np.dtype[Any]
    n_columns: int | None = None
    """Entries of a row; None for a number without an axis of its own."""

    @property
    def row_bytes(self) -> int:
        """Size of the result of one row."""
        return self.dtype.itemsize * (self.n_columns or 1)

    def empty(self, n_rows: int) -> Array:
        """Array for the results of that many rows."""
        return np.empty((n_rows,) if self.n_columns is None else (n_rows, self.n_columns), self.dtype)


class RowFunction(Protocol):
    """A function of rows with several outputs."""

    @property
    def outputs(self) -> tuple[RowOutput, ...]:
        """Outputs that a call makes."""

    def __call__(self, rows: Array, start: int, results: Sequence[Array]) -> None:
        """Fill one array for each output.

        Parameters
        ----------
        rows : array of shape (n, D)
        start : int
            Number of the first row, counted within its block where the lengths of earlier blocks are not known.
        results : sequence of array
        """


def as_blocks(data: Any, result_bytes: int = 0) -> da.Array:
    """Lazy dask array of the rows, all features in one chunk.

    Parameters
    ----------
    data : dask.array.Array or Source
        Stored rows come in their own chunks, or shards: in whole ones of at least a megabyte, where there are more than
        a thousand.
    result_bytes : int
        Size of the results for each row: no block has larger ones than rows may be, where the layout leaves a choice.

    Raises
    ------
    DataChangedError, StoreNotFoundError, StoreError
        If a store does not say any more what it said when it was opened.
    """
    if isinstance(data, da.Array):
        return data if len(data.chunks[1]) == 1 else data.rechunk({1: -1})
    data.check_unchanged()  # results that are computed later would have another length than the rows
    rows = _shared(_Rows(data, _block_rows(data, max(1, data.row_bytes, result_bytes))))
    return da.from_array(
        rows,
        chunks=(rows.block_rows, data.shape[1]),
        name=rows.name,
        asarray=False,
        inline_array=False,
        meta=np.empty((0, 0), data.dtype),  # or Dask reads no rows of it to find out
    )


def _shared(rows: _Rows) -> _Rows:
    """Rows of a lazy result that is still there and reads the same in the same blocks; without one, these.

    Blocks of rows then have the same keys in several results, and are read once where these are computed together.
    Why no scheduler answers with rows that have been overwritten since:

    * Results have new keys in every call. Blocks of rows lie between the store and the results: nobody holds their
      keys, so a scheduler forgets their values as soon as the results that it was asked for at the time are made.
    * What a scheduler remembers for persisted results, in case that it loses them, is how to read a block. That is the
      same for all that share a key, and reads what lies in the store by then. So rows that travel inside their graph
      are never shared: it would hold those of an earlier time.
    * Names are random and end with the last result that has them. A cache of intermediate values (`dask.cache`) finds
      nothing of results that are gone.

    A store that is written to while it is read gives some old rows and some new ones, as it always has.
    """
    return rows if rows.identity is None else _alive.setdefault((rows.identity, rows.block_rows), rows)


def _block_rows(source: Source, row_bytes: int) -> int:
    if source.batch_rows == 1:  # there are no chunks
        return max(1, SLAB_BYTES // row_bytes)
    if source.shape[0] <= _MANY_CHUNKS * source.batch_rows:
        return source.batch_rows
    return max(1, _BLOCK_BYTES // row_bytes // source.batch_rows) * source.batch_rows


class _Rows:
    """Stored rows as dask's from_array wants them, read with every check."""

    def __init__(self, source: Source, block_rows: int) -> None:
        self._rows = source.handle
        self.block_rows = block_rows
        self.identity = source.identity()
        self.name = f"gmm-rows-{uuid.uuid4().hex}"
        self.shape, self.dtype, self.ndim = source.shape, source.dtype, source.ndim

    def __getitem__(self, index: tuple[slice, slice]) -> Array:
        return np.asarray(self._rows[index[0]][:, index[1]])


_alive: WeakValueDictionary[Any, _Rows] = WeakValueDictionary()
"""Rows of the lazy results that are still there."""


def map_rows(blocks: da.Array, function: RowFunction) -> da.Array:
    """Lazy results, chunked as the rows are.

    Parameters
    ----------
    blocks : dask.array.Array
        From `as_blocks`.
    function : RowFunction
        Of one output.
    """
    (output,) = function.outputs
    # One node of the graph, so that parameters travel to a worker once and not with every block.
    shared = dask.delayed(function, pure=False, traverse=False)
    chunks = {"drop_axis": 1} if output.n_columns is None else {"chunks": (blocks.chunks[0], (output.n_columns,))}
    return blocks.map_blocks(
        _apply, function=shared, token="gmm-rows", dtype=output.dtype, meta=output.empty(0)[..., :0], **chunks
    )


def _apply(block: Any, function: RowFunction, block_info: Any = None) -> Array:
    tell_briefly()
    start = block_info[0]["array-location"][0][0] if block_info else np.nan
    known = not np.isnan(start)
    try:
        (result,) = apply_rows(dense(block), function, int(start) if known else 0)
    except NonFiniteDataError as error:
        if known:
            raise
        raise NonFiniteDataError(error.row, is_nan=error.is_nan, within_chunk=True) from None
    return result


def apply_rows(rows: Array, function: RowFunction, start: int = 0, n_threads: int = 1) -> list[Array]:
    """Results for rows in memory, at once: an array for each output.

    Parameters
    ----------
    rows : array of shape (n, D)
    function : RowFunction
    start : int
        Number of the first row.
    n_threads : int
    """
    results = [output.empty(len(rows)) for output in function.outputs]

    def fill(span: tuple[int, int]) -> None:
        piece = slice(*span)
        function(rows[piece], start + span[0], [result[piece] for result in results])

    spans = ranges(0, len(rows), _SPAN_ROWS, 1, None)
    if len(spans) == 1 or n_threads == 1:
        for span in spans:
            fill(span)
        return results
    with ThreadPoolExecutor(n_threads, thread_name_prefix="gmm-rows") as pool:
        list(pool.map(fill, spans))
    return results
