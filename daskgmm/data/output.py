"""Results with one entry for each row: lazy for lazy rows, and never all of them in memory at once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from ..errors import NonFiniteDataError
from ..tuning import current
from .dask_blocks import dense
from .failures import tell_briefly
from .source import Source, ranges

Array = np.ndarray[Any, np.dtype[Any]]

_SPAN_ROWS = 1 << 15  # rows that a thread computes at a time


@dataclass(frozen=True)
class RowOutput:
    """Name, dtype and width of a result with one entry for each row."""

    name: str
    dtype: np.dtype[Any]
    n_columns: int | None = None
    """Number of entries of a row; None for a single number without an axis."""
    column_dim: str = "component"
    """Name of the dimension of these entries, where dimensions have names."""
    columns: tuple[str, ...] = ()
    """Names of these entries; empty if they have numbers only."""
    title: str = ""
    """Name of the result where it is labelled or stored."""
    attributes: tuple[tuple[str, Any], ...] = ()
    """Names and values of CF attributes, values for JSON."""

    @property
    def missing(self) -> float:
        """Result of a row that is left out: NaN, −1 for labels, False for flags."""
        return np.nan if self.dtype.kind == "f" else False if self.dtype.kind == "b" else -1

    @property
    def row_bytes(self) -> int:
        """Size of the result of one row, in bytes."""
        return self.dtype.itemsize * (self.n_columns or 1)

    def empty(self, n_rows: int) -> Array:
        """Allocate the array for the results of ``n_rows`` rows."""
        return np.empty((n_rows,) if self.n_columns is None else (n_rows, self.n_columns), self.dtype)


class RowFunction(Protocol):
    """A function of rows with several outputs."""

    @property
    def outputs(self) -> tuple[RowOutput, ...]:
        """Outputs of a call, in the order of ``results``."""

    def __call__(self, rows: Array, start: int, results: Sequence[Array]) -> None:
        """Compute all outputs into the given arrays.

        Parameters
        ----------
        rows : array of shape (n, D)
        start : int
            Number of the first row, counted within its block if the lengths of earlier blocks are unknown.
        results : sequence of array
            Array for each output, to be filled.
        """


def as_blocks(data: Any, result_bytes: int = 0, shared_bytes: int = 0) -> da.Array:
    """Lazy dask array of the rows, all features in one chunk.

    Parameters
    ----------
    data : dask.array.Array or Source
        Blocks of stored rows are their chunks, or shards. If there are more than a thousand, several are joined to
        blocks of up to a megabyte.
    result_bytes : int
        Size of the results for each row. The limits of a block's size hold for its results, too.
    shared_bytes : int
        The same for all results that may share the blocks; counts instead where blocks can be shared.

    Raises
    ------
    DataChangedError, StoreNotFoundError, StoreError
        If the metadata of a store have changed since the store was opened, or cannot be read.
    """
    if isinstance(data, da.Array):
        return data if len(data.chunks[1]) == 1 else data.rechunk({1: -1})
    data.check_unchanged()  # otherwise later results could have another length than the rows
    identity = data.identity()
    largest = max(1, data.row_bytes, result_bytes if identity is None else shared_bytes)
    rows = shared(_Rows(data, identity, _block_rows(data, largest)))
    return da.from_array(
        rows,
        chunks=(rows.block_rows, data.shape[1]),
        name=rows.name,
        asarray=False,
        inline_array=False,
        meta=np.empty((0, 0), data.dtype),  # without it, Dask makes an empty read to find out
    )


class SharedRows(Protocol):
    """Stored rows with the interface that dask's from_array needs."""

    name: str
    """Name of the blocks in graphs, new for every object."""
    identity: Any
    """Equal for equal rows read in the same way; None where this is unknown."""
    block_rows: Any
    """Lengths of the blocks."""


R = TypeVar("R", bound=SharedRows)


def shared(rows: R) -> R:
    """Return the rows of a living lazy result that reads the same store in the same blocks; else these rows.

    Blocks of rows then have the same keys in several results, and are read once if these are computed together.
    No scheduler answers with rows that have been overwritten since, for three reasons:

    * Results have new keys in every call. Nobody holds the keys of the blocks of rows between store and results, so a
      scheduler forgets their values as soon as it has computed the requested results.
    * For persisted results, a scheduler remembers how to read a block, in case that it loses them. The task is the
      same for all results that share its key, and reads the current contents of the store. So rows inside a graph are
      never shared: the graph would hold old rows.
    * Names are random, and are not used again after the last result that has them. Where `dask.cache` keeps
      intermediate values, rows are not shared, because the cache would answer with old rows.

    A store that is overwritten while it is read still gives some old rows and some new ones.
    """
    if rows.identity is None or _is_cached():
        return rows
    return _alive.setdefault((type(rows), rows.identity, rows.block_rows), rows)


def _is_cached() -> bool:
    """Test for a cache of intermediate values among Dask's callbacks."""
    owners = (getattr(function, "__self__", None) for callback in Callback.active for function in callback)
    return any(type(owner).__module__ == "dask.cache" for owner in owners)


def _block_rows(source: Source, row_bytes: int) -> int:
    if source.batch_rows == 1:  # no chunks
        return max(1, current().slab_bytes // row_bytes)
    if source.shape[0] <= current().many_chunks * source.batch_rows:
        return source.batch_rows
    return max(1, current().joined_bytes // row_bytes // source.batch_rows) * source.batch_rows


class _Rows:
    """Stored rows with the interface that dask's from_array needs, read with every check."""

    def __init__(self, source: Source, identity: Any, block_rows: int) -> None:
        self._rows = source.handle
        self.identity, self.block_rows = identity, block_rows
        self.name = f"gmm-rows-{uuid.uuid4().hex}"
        self.shape, self.dtype, self.ndim = source.shape, source.dtype, source.ndim

    def __getitem__(self, index: tuple[slice, slice]) -> Array:
        return np.asarray(self._rows[index[0]][:, index[1]])


_alive: WeakValueDictionary[Any, Any] = WeakValueDictionary()
"""Rows of all living lazy results, by identity and block length."""


def map_rows(blocks: da.Array, function: RowFunction) -> da.Array:
    """Make lazy results in the chunks of the rows.

    Parameters
    ----------
    blocks : dask.array.Array
        Result of `as_blocks`.
    function : RowFunction
        Function with one output.
    """
    (output,) = function.outputs
    # One node of the graph, so that a worker gets the parameters once and not with every block.
    shared = dask.delayed(function, pure=False, traverse=False)
    chunks = {"drop_axis": 1} if output.n_columns is None else {"chunks": (blocks.chunks[0], (output.n_columns,))}
    return blocks.map_blocks(
        _apply, function=shared, token="gmm-rows", dtype=output.dtype, meta=output.empty(0)[..., :0], **chunks
    )


def _apply(block: Any, function: RowFunction, block_info: Any = None) -> Array:
    start = block_info[0]["array-location"][0][0] if block_info else np.nan
    return block_results(dense(block), function, None if np.isnan(start) else int(start))


def block_results(rows: Array, function: RowFunction, start: int | None = None) -> Array:
    """Compute the results for a block of rows in a task.

    Parameters
    ----------
    rows : array of shape (n, D)
    function : RowFunction
        Function with one output.
    start : int, optional
        Number of the first row; None if it is not known.
    """
    tell_briefly()
    try:
        (result,) = apply_rows(rows, function, start or 0)
    except NonFiniteDataError as error:
        if start is not None:
            raise
        raise NonFiniteDataError(error.row, is_nan=error.is_nan, within_chunk=True) from None
    return result


def apply_rows(rows: Array, function: RowFunction, start: int = 0, n_threads: int | None = 1) -> list[Array]:
    """Compute the results for rows in memory: an array for each output.

    Parameters
    ----------
    rows : array of shape (n, D)
    function : RowFunction
    start : int
        Number of the first row.
    n_threads : int or None
        None: one for each processor that this process may use.
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
    with ThreadPoolExecutor(n_threads or CPU_COUNT, thread_name_prefix="gmm-rows") as pool:
        list(pool.map(fill, spans))
    return results
