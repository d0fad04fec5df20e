"""Results for every row, written into a Zarr group block by block."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from dask.task_spec import Task, TaskRef

from ..errors import DataChangedError, StoreError
from .blocks import BlockSource
from .claims import remove_remains
from .failures import tell_briefly
from .source import Part
from .store import describe
from .write import writing

Array = np.ndarray[Any, np.dtype[Any]]

# A chunk is a file: smaller ones cost more to open than to read.
_FEWEST_ROWS = 1 << 14


@dataclass(frozen=True)
class RowArray:
    """Lazy results, and what their array in the store is to be called and to say."""

    values: da.Array
    """Shape (n,) or (n, K)."""
    fill_value: float
    """What a chunk that got lost is read as: nothing that could be a result."""
    attributes: Mapping[str, Any]


def write_rows(
    group: zarr.Group,
    arrays: Mapping[str, RowArray],
    compute: Callable[[Any], Any],
    on_rows: Callable[[int, int], Any] | None = None,
) -> None:
    """Write results for every row into a group, all in one computation, so that the rows they share are read once.

    Chunks of the store are blocks of the dask arrays: no two tasks ever write to one chunk. Blocks of uneven lengths
    are cut anew first. Memory is that of the blocks in work.

    Parameters
    ----------
    group : zarr.Group
    arrays : mapping of str to RowArray
        All with the same rows.
    compute : callable
        Computes a dask collection.
    on_rows : callable
        Called where a task runs, with the first of the rows that it wrote of the first array, and their number;
        picklable.
    """
    blocks = {name: regular_blocks(array.values) for name, array in arrays.items()}
    first = next(iter(arrays))
    counts = [
        _write_blocks(values, _create(group, name, values, arrays[name]), on_rows if name == first else None)
        for name, values in blocks.items()
    ]
    written_rows = compute(_block_by_block(da.stack(counts, axis=1))).sum(axis=0)
    for name, written in zip(blocks, written_rows.tolist(), strict=True):
        if written != (expected := blocks[name].shape[0]):
            raise DataChangedError(f"{name}: {written} rows were written, {expected} were expected: the data changed")


def regular_blocks(values: da.Array) -> da.Array:
    """The array in blocks that Zarr chunks can be: equally long but for the last one, with all columns, not tiny."""
    if np.isnan(values.shape[0]):
        raise ValueError("the length of these dask arrays is not known; call compute_chunk_sizes() on the data first")
    lengths = [n for n in values.chunks[0] if n] or [1]
    longest = max(lengths)
    if longest < _FEWEST_ROWS:
        longest *= -(-_FEWEST_ROWS // longest)
    return values.rechunk({0: min(longest, max(1, values.shape[0])), **({1: -1} if values.ndim == 2 else {})})


def _create(group: zarr.Group, name: str, values: da.Array, array: RowArray) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, n) for n in values.chunksize),
        dtype=values.dtype,
        fill_value=array.fill_value,
        attributes=dict(array.attributes),
        dimension_names=("row", "component")[: values.ndim],
    )


def _write_blocks(values: da.Array, target: zarr.Array[Any], on_rows: Callable[[int, int], Any] | None) -> da.Array:
    # One node of the graph, so that the handle travels to a worker once and not with every block.
    shared = dask.delayed(target, pure=False, traverse=False)
    return values.map_blocks(
        _write_block,
        target=shared,
        on_rows=on_rows,
        token="gmm-write",
        dtype=np.int64,
        chunks=((1,) * values.numblocks[0],),
        drop_axis=list(range(1, values.ndim)),
        meta=np.empty(0, np.int64),
    )


def _block_by_block(counts: da.Array) -> da.Array:
    """The same array with one task for each row of blocks, which reads, computes and writes.

    As tasks of their own, the rows and results of many blocks would lie in memory, and travel between workers.
    """
    source = BlockSource(counts)
    name = f"gmm-predict-{uuid.uuid4().hex}"
    graph: dict[Any, Any] = source.shared_tasks()
    for i in range(counts.shape[0]):
        part = source.part(i, i + 1)
        graph[name, i, 0] = Task((name, i, 0), _compute_part, part, i, *map(TaskRef, part.dependencies))
    return da.Array(graph, name, (counts.chunks[0], (counts.shape[1],)), counts.dtype)


def _compute_part(part: Part, i: int, *values: Any) -> Array:
    tell_briefly()
    return part.read(None, dict(zip(part.dependencies, values, strict=True)), i, i + 1)


def _write_block(
    block: Array, target: zarr.Array[Any], on_rows: Callable[[int, int], Any] | None, block_info: Any = None
) -> Array:
    start, stop = block_info[0]["array-location"][0]
    if len(block) != stop - start:
        raise DataChangedError(f"{target.name}: {len(block)} rows came for rows {start} to {stop}: the data changed")
    root = getattr(target.store, "root", None)
    if root is not None and not os.path.isdir(root):
        raise StoreError(f"{root} is gone: the run that wrote it has failed")
    try:
        with writing(f"Rows {start} to {stop} of {describe(target)}"):
            target[start:stop] = block
    finally:
        if root is not None:
            remove_remains(str(root))
    if on_rows is not None:
        on_rows(start, len(block))
    return np.array([len(block)])
