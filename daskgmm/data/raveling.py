"""Samples on a grid as rows, and results for these rows on the grid again.

A lazy grid is never reshaped as a whole: each block is raveled where it is read. The rows come block by block, in C
order within each block; the blocks come in C order, too. If only the first dimension is cut, this is the C order of the
whole grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from dask.utils import parse_bytes

from .arrays import check_unmasked, unmasked

Array = np.ndarray[Any, np.dtype[Any]]
Chunks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Raveling:
    """Order in which the samples of a grid become rows."""

    shape: tuple[int, ...]
    """Lengths of the sample dimensions."""
    chunks: Chunks | None = None
    """Lengths of the blocks along each of them; None for samples in memory, whose rows are in C order."""

    @classmethod
    def of(cls, grid: Any) -> Raveling:
        """Return the order for a grid, (…, D): a NumPy or dask array."""
        return cls(tuple(grid.shape[:-1]), grid.chunks[:-1] if isinstance(grid, da.Array) else None)

    @property
    def n_rows(self) -> int:
        """Number of samples."""
        return math.prod(self.shape)

    @property
    def in_c_order(self) -> bool:
        """Test whether the rows are in the C order of the whole grid."""
        if self.chunks is None:
            return True
        cut = [axis for axis, lengths in enumerate(self.chunks) if len(lengths) > 1]
        return not cut or all(max(lengths) == 1 for lengths in self.chunks[: cut[-1]])

    @property
    def row_chunks(self) -> tuple[int, ...]:
        """Numbers of rows of the blocks."""
        return tuple(map(math.prod, itertools.product(*(self.chunks or ((self.n_rows,),)))))

    def position(self, row: int) -> tuple[int, ...]:
        """Position on the grid of the sample that is a row."""
        if self.chunks is None:
            return tuple(map(int, np.unravel_index(row, self.shape)))
        firsts = np.cumsum((0, *self.row_chunks))
        block = int(np.searchsorted(firsts, row, "right")) - 1
        blocks = np.unravel_index(block, tuple(map(len, self.chunks)))
        lengths = tuple(along[i] for along, i in zip(self.chunks, blocks, strict=True))
        inside = np.unravel_index(row - int(firsts[block]), lengths)
        return tuple(int(sum(along[:i]) + j) for along, i, j in zip(self.chunks, blocks, inside, strict=True))

    def row(self, position: Sequence[int]) -> int:
        """Row of the sample at a position on the grid; the inverse of `position`."""
        if self.chunks is None:
            return int(np.ravel_multi_index(tuple(position), self.shape))
        firsts = [np.cumsum((0, *along)) for along in self.chunks]
        blocks = [int(np.searchsorted(f, at, "right")) - 1 for f, at in zip(firsts, position, strict=True)]
        inside = tuple(at - int(f[i]) for f, i, at in zip(firsts, blocks, position, strict=True))
        block = int(np.ravel_multi_index(tuple(blocks), tuple(map(len, self.chunks))))
        lengths = tuple(along[i] for along, i in zip(self.chunks, blocks, strict=True))
        return sum(self.row_chunks[:block]) + int(np.ravel_multi_index(inside, lengths))

    def rows(self, grid: Any) -> Any:
        """Ravel the sample dimensions of an array, the first, to rows, (n, …); lazy for a dask array.

        Parameters
        ----------
        grid : numpy.ndarray or dask.array.Array
            In the blocks of this grid, if it is lazy.
        """
        n_axes = len(self.shape)
        if not isinstance(grid, da.Array):
            return grid.reshape(self.n_rows, *grid.shape[n_axes:])
        lengths = tuple(map(math.prod, itertools.product(*grid.chunks[:n_axes])))
        return _regrouped(grid, (lengths, *grid.chunks[n_axes:]))

    def grid(self, rows: Any) -> Any:
        """Return rows, (n, …), on the grid; the inverse of `rows`."""
        if not isinstance(rows, da.Array):
            return rows.reshape(*self.shape, *rows.shape[1:])
        chunks = tuple((length,) for length in self.shape) if self.chunks is None else self.chunks
        return _regrouped(rows, (*chunks, *rows.chunks[1:]))


def _regrouped(x: da.Array, chunks: Chunks) -> da.Array:
    """Reshape every block of an array to the block at the same place, in C order, of other chunks."""
    name = "gmm-ravel-" + tokenize(x.name, chunks)
    old = itertools.product([x.name], *(range(len(lengths)) for lengths in x.chunks))
    new = itertools.product([name], *(range(len(lengths)) for lengths in chunks))
    shapes = itertools.product(*chunks)
    tasks = {
        key: Task(key, np.reshape, TaskRef(before), shape) for key, before, shape in zip(new, old, shapes, strict=True)
    }
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[x])
    return da.Array(graph, name, chunks, meta=meta_from_array(x._meta, len(chunks)))


def block_lengths(
    shape: Sequence[int], stored: Sequence[int], features: Sequence[int], row_bytes: int, limit: int
) -> tuple[int, ...]:
    """Lengths of blocks for stored data: whole chunks, and about ``limit`` bytes.

    Blocks grow along the last axes first, so that the rows are in C order if possible.

    Parameters
    ----------
    shape, stored : sequence of int
        Lengths of the array and of its chunks.
    features : sequence of int
        Axes that are not cut.
    row_bytes : int
        Bytes of a number, of all variables together.
    limit : int
    """
    lengths = [n if axis in features else max(1, min(n, stored[axis])) for axis, n in enumerate(shape)]
    for axis in reversed(range(len(shape))):
        n_bytes = math.prod(lengths) * row_bytes
        lengths[axis] = max(1, min(shape[axis], lengths[axis] * max(1, limit // max(1, n_bytes))))
    return tuple(lengths)


def features_together(x: da.Array, n_axes: int) -> da.Array:
    """Return an array with one block along all axes after the first ``n_axes``.

    Blocks that grow beyond Dask's ``array.chunk-size`` by this are cut along the first axes.
    """
    features = range(n_axes, x.ndim)
    if all(len(x.chunks[axis]) == 1 for axis in features):
        return x
    whole = dict.fromkeys(features, -1)
    n_bytes = math.prod(map(max, x.chunks[:n_axes])) * math.prod(x.shape[n_axes:]) * x.dtype.itemsize
    if n_bytes > parse_bytes(dask.config.get("array.chunk-size")):
        return x.rechunk({**dict.fromkeys(range(n_axes), "auto"), **whole})
    return x.rechunk(whole)


def joined(variables: Sequence[Any], n_axes: int) -> Any:
    """Join arrays along their last axis, with the first ``n_axes`` axes broadcast, in their common dtype.

    Parameters
    ----------
    variables : sequence of numpy.ndarray or dask.array.Array
        Shape (…, d) each; axes of the length one are broadcast. All lazy, or none.
    n_axes : int

    Returns
    -------
    numpy.ndarray or dask.array.Array of shape (…, sum of d)
    """
    if len(variables) == 1:
        return variables[0]
    dtype = np.result_type(*(values.dtype for values in variables))
    if not isinstance(variables[0], da.Array):
        return _joined(*variables, common=dtype)
    axes = tuple(range(n_axes))
    operands = ((values, (*axes, n_axes + 1 + i)) for i, values in enumerate(variables))
    return da.blockwise(
        _joined,
        (*axes, n_axes),
        *itertools.chain.from_iterable(operands),
        new_axes={n_axes: sum(values.shape[-1] for values in variables)},
        concatenate=True,
        common=dtype,
        dtype=dtype,
        meta=np.empty((0,) * (n_axes + 1), dtype),
        token="gmm-features",
    )


def _joined(*blocks: Any, common: np.dtype[Any]) -> Array:
    shape = np.broadcast_shapes(*(block.shape[:-1] for block in blocks))
    found = np.empty((*shape, sum(block.shape[-1] for block in blocks)), common)
    first = 0
    for block in blocks:
        check_unmasked(block if common.kind != "f" else unmasked(block))
        found[..., first : first + block.shape[-1]] = unmasked(block)
        first += block.shape[-1]
    return found


def one_feature_axis(values: Any, n_axes: int) -> Any:
    """Ravel the axes after the first ``n_axes`` to one, the last; make one if there is none."""
    if isinstance(values, da.Array) and values.ndim > n_axes:
        values = features_together(values, n_axes)
    if values.ndim == n_axes + 1:
        return values
    shape = (*values.shape[:n_axes], math.prod(values.shape[n_axes:]))
    if not isinstance(values, da.Array):
        return values.reshape(shape)
    return _regrouped(values, (*values.chunks[:n_axes], (shape[-1],)))
