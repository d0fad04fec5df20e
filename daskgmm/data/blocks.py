"""dask arrays as sources of rows.

The collection is optimised once. What only one row of blocks needs is embedded in the task that reads it and computed
there; what several need (a shuffle, a rechunk, an array that was passed in whole) stays a task of its own, so that it
is computed once.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.local import get_sync
from dask.task_spec import DataNode

from ..errors import UnsupportedDataError
from .arrays import check_unmasked
from .source import Part, Source

Array = np.ndarray[Any, np.dtype[Any]]
Key = Any
Graph = dict[Key, Any]

_SHARED = -1


@dataclass(frozen=True)
class BlockPart(Part):
    """Some rows of blocks, with the sub-graph that makes them."""

    graph: Graph
    keys: tuple[tuple[Key, ...], ...]
    """Keys of the blocks: a tuple of column blocks for every row of blocks."""
    dependencies: tuple[Key, ...] = ()

    def read(self, handle: Any, inputs: Mapping[Any, Any]) -> Array:
        given = {key: DataNode(key, inputs[key]) for key in self.dependencies}
        # The keys are distinct, a graph executes each once, and the synchronous scheduler starts no threads of its own.
        rows = get_sync({**self.graph, **given}, [list(columns) for columns in self.keys])
        joined = [_join([dense(block) for block in columns], axis=1) for columns in rows]
        return _join(joined, axis=0)


class BlockSource(Source):
    """A dask array, one- or two-dimensional, whose chunk lengths are known."""

    def __init__(self, array: da.Array) -> None:
        self._collection = array  # keeps persisted blocks alive on their workers
        (optimised,) = dask.optimize(array)
        self.shape = tuple(int(n) for n in array.shape)
        self.dtype = np.dtype(array.dtype)
        self.cuts = [0, *itertools.accumulate(int(n) for n in array.chunks[0])]
        keys = optimised.__dask_keys__()
        self._keys = [tuple(row) if isinstance(row, list) else (row,) for row in keys]
        self._graph = dict(optimised.__dask_graph__())
        self._owned, self._shared = split_graph(self._graph, self._keys)

    def part(self, start: int, stop: int) -> Part:
        # Empty chunks make cuts repeat: take every block from the first that starts at `start` to the last before
        # `stop`.
        first = int(np.searchsorted(self.cuts or [], start, "left"))
        last = int(np.searchsorted(self.cuts or [], stop, "left"))
        graph: Graph = {}
        for i in range(first, last):
            graph.update(self._owned[i])
        keys = tuple(self._keys[first:last])
        needed = set(itertools.chain.from_iterable(keys)).union(*(task.dependencies for task in graph.values()))
        return BlockPart(graph, keys, tuple(sorted(needed - graph.keys(), key=str)))

    def shared_tasks(self) -> Graph:
        return self._shared


def split_graph(graph: Graph, groups: Sequence[tuple[Key, ...]]) -> tuple[list[Graph], Graph]:
    """Split a graph into what each group of keys needs alone and what at least two of them need.

    Keys that the graph does not hold are persisted on a cluster; they count as needed by several.
    """
    owner: dict[Key, int] = {}
    for group, keys in enumerate(groups):
        stack = list(keys)
        while stack:
            key = stack.pop()
            if key not in graph or owner.get(key) in (group, _SHARED):
                continue
            owner[key] = _SHARED if key in owner else group
            stack.extend(graph[key].dependencies)
        # A key marked as shared passes the mark on: its dependencies were owned by another group, or by none yet.
    shared = [key for key, group in owner.items() if group == _SHARED]
    while shared:
        for dependency in graph[shared.pop()].dependencies:
            if dependency in graph and owner[dependency] != _SHARED:
                owner[dependency] = _SHARED
                shared.append(dependency)
    owned: list[Graph] = [{} for _ in groups]
    common: Graph = {}
    for key, group in owner.items():
        (common if group == _SHARED else owned[group])[key] = graph[key]
    return owned, common


def with_known_chunks(array: da.Array, compute: Callable[[Any], Any]) -> tuple[da.Array, bool]:
    """The array with its chunk lengths known, and whether they had to be counted, which reads the data once.

    Parameters
    ----------
    array : dask.array.Array
    compute : callable
        Computes a dask collection.
    """
    if not any(np.isnan(n) for n in array.chunks[0]):
        return array, False
    column = array if array.ndim == 1 else array[:, :1]
    axes = list(range(1, array.ndim))
    lengths = column.map_blocks(_length, dtype=np.int64, drop_axis=axes, meta=np.empty(0, np.int64))
    known = copy.copy(array)
    # As compute_chunk_sizes does, which would change the caller's array and use another scheduler.
    known._chunks = (tuple(int(n) for n in compute(lengths)), *array.chunks[1:])
    return known, True


def _length(block: Any) -> Array:
    return np.array([len(block)])


def _join(arrays: list[Array], axis: int) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


def dense(block: Any) -> Array:
    """A block as a plain array.

    Raises
    ------
    UnsupportedDataError
        If it is sparse, or masked in places.
    """
    if hasattr(block, "toarray") or type(block).__module__.startswith("sparse"):
        raise UnsupportedDataError(
            "X: the blocks of this dask array are sparse. Gaussian mixtures need dense rows: "
            "x.map_blocks(lambda block: block.toarray())."
        )
    check_unmasked(block)
    return np.asarray(block)
