"""dask arrays as sources of rows.

The collection is optimised once. Tasks that only one row of blocks needs are embedded in the task that reads this row,
and computed there. Tasks that several rows need (a shuffle, a rechunk, an array that was passed in whole) stay
separate, so that they are computed once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from ..errors import UnsupportedDataError
from ..tuning import Tuning, current
from .arrays import check_unmasked
from .detached import carried, detached_tasks, held_tasks, piece_bytes
from .source import Part, Source
from .task_graphs import Graph, Key, evaluate, gc_paused, split_graph

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCKS_LOOKED_AT = 4


@dataclass(frozen=True, slots=True)
class Block:
    """One row of blocks, with the sub-graph that computes it."""

    keys: tuple[Key, ...]
    """Keys of the column blocks."""

    graph: Graph

    dependencies: tuple[Key, ...]
    """Keys that the sub-graph needs from outside."""

    def read(self, inputs: Mapping[Any, Any]) -> Array:
        """Compute the rows from a value for each dependency."""
        values = {key: inputs[key] for key in self.dependencies}
        return _join([dense(columns) for columns in evaluate(self.graph, self.keys, values)], axis=1)


@dataclass(frozen=True, slots=True)
class HeldBlock:
    """A row of blocks that is held on a cluster in a group of neighbours, not yet computed."""

    key: Key
    """Key of the group."""

    index: int
    """Position in the group."""

    dependencies: tuple[Key, ...]

    def read(self, inputs: Mapping[Any, Any]) -> Array:
        """Compute the rows; see `Block.read`."""
        rows: Array = inputs[self.key].value[self.index].read(inputs)
        return rows


@dataclass(frozen=True, eq=False)
class BlockPart(Part):
    """Consecutive rows of blocks."""

    blocks: tuple[Block | HeldBlock, ...]
    cuts: Array
    """Row numbers of the beginning of each block and of the end of the last one."""
    dependencies: tuple[Key, ...]

    def read(self, handle: Any, inputs: Mapping[Any, Any], start: int, stop: int) -> Array:
        return _join([block.read(inputs) for block in self.blocks[blocks_between(self.cuts, start, stop)]], axis=0)


class BlockSource(Source):
    """A dask array, one- or two-dimensional, whose chunk lengths are known."""

    kind = "dask array"
    cuts: Array

    @gc_paused()
    def __init__(self, array: da.Array) -> None:
        self._collection = array  # keeps persisted blocks alive on their workers
        self.shape = tuple(int(n) for n in array.shape)
        self.dtype = np.dtype(array.dtype)
        self.cuts = np.cumsum([0, *array.chunks[0]], dtype=np.int64)
        rows = [tuple(row) if isinstance(row, list) else (row,) for row in array.__dask_keys__()]
        owned, self._shared = split_graph(optimized_graph(array), rows)
        self._blocks: list[Block | HeldBlock] = [
            Block(keys, graph, _outside(keys, graph)) for keys, graph in zip(rows, owned, strict=True)
        ]
        self._row_held_bytes = 0.0
        self.cacheable = not self._is_in_memory()

    def reading_bytes(self, n_rows: int) -> int:
        # The user's tasks that make the blocks may take any memory; joining the blocks takes this much.
        return 2 * n_rows * self.row_bytes

    def part(self, start: int, stop: int) -> Part:
        chosen = blocks_between(self.cuts, start, stop)
        blocks = tuple(self._blocks[chosen])
        needed = {key for block in blocks for key in block.dependencies}
        return BlockPart(blocks, self.cuts[chosen.start : chosen.stop + 1], tuple(sorted(needed, key=str)))

    def carried_bytes(self) -> int:
        return sum(self._sizes()) + sum(map(carried, self._shared.values()))

    def detached(self, tuning: Tuning) -> tuple[Source, Graph]:
        source, sizes = copy.copy(self), self._sizes()
        source._shared, held = detached_tasks(self._shared, tuning.most_task_bytes)
        if sum(sizes) < tuning.most_task_bytes:
            return source, held
        groups = list(_grouped(sizes, piece_bytes(sum(sizes), tuning)))
        held_blocks = held_tasks((tuple(self._blocks[group]), sum(sizes[group])) for group in groups)
        source._row_held_bytes = sum(sizes) / self.shape[0]
        source._blocks = [
            HeldBlock(key, i, (key, *block.dependencies))
            for key, group in zip(held_blocks, groups, strict=True)
            for i, block in enumerate(self._blocks[group])
        ]
        return source, held | held_blocks

    def held_bytes(self, n_rows: int) -> int:
        return int(n_rows * self._row_held_bytes)

    def _is_in_memory(self) -> bool:
        """Test for rows that the graph carries, or that a cluster holds, by looking at a few blocks."""
        few = self._blocks[:: max(1, len(self._blocks) // _BLOCKS_LOOKED_AT)]
        if any(key not in self._shared for block in few for key in block.dependencies):
            return True  # persisted
        in_blocks = sum(sum(map(carried, block.graph.values())) for block in few if isinstance(block, Block))
        in_blocks = in_blocks * len(self._blocks) // len(few)
        in_all = sum(map(carried, self._shared.values()))
        return 2 * (in_blocks + in_all) > self.shape[0] * self.row_bytes

    def _sizes(self) -> list[int]:
        """Bytes of values that the graph of each row of blocks contains."""
        return [sum(map(carried, block.graph.values())) if isinstance(block, Block) else 0 for block in self._blocks]

    def place(self, start: int, stop: int) -> str:
        chosen = blocks_between(self.cuts, start, stop)
        first, last = chosen.start, chosen.stop - 1
        blocks = f"block {first}" if first == last else f"blocks {first} to {last}"
        return f"rows {start} to {stop} of a dask array ({blocks})"

    def shared_tasks(self) -> Graph:
        return self._shared


def _grouped(sizes: Sequence[int], size: int) -> Iterator[slice]:
    """Group neighbours so that each group has about ``size`` bytes."""
    first, total = 0, 0
    for i, more in enumerate(sizes):
        total += more
        if total >= size or i == len(sizes) - 1:
            yield slice(first, i + 1)
            first, total = i + 1, 0


def blocks_between(cuts: Array, start: int, stop: int) -> slice:
    """Numbers of the blocks that contain rows ``start`` to ``stop``.

    Empty chunks make cuts repeat: take every block from the first that starts at ``start`` to the last before ``stop``.
    """
    first, last = np.searchsorted(cuts, [start, stop], "left").tolist()
    return slice(first, last)


def optimized_graph(array: da.Array) -> Graph:
    """Optimise the array's graph with Dask's own optimisation."""
    graph = array.__dask_graph__()
    if len(getattr(graph, "layers", ())) > current().most_layers:
        # An array that joins many arrays has a layer for each of them. Optimising layers takes time quadratic in their
        # number (20 minutes for 100 000 delayed blocks), optimising single tasks takes linear time.
        graph = dict(graph)
    return dict(array.__dask_optimize__(graph, array.__dask_keys__()))


def _outside(keys: Sequence[Key], graph: Graph) -> tuple[Key, ...]:
    needed = set(keys).union(*(task.dependencies for task in graph.values()))
    return tuple(sorted(needed - graph.keys(), key=str))


def with_known_chunks(array: da.Array, compute: Callable[[Any], Any]) -> tuple[da.Array, bool]:
    """Count unknown chunk lengths, which reads the data once.

    Parameters
    ----------
    array : dask.array.Array
    compute : callable
        Computes a dask collection.

    Returns
    -------
    array : dask.array.Array
        The array with its chunk lengths known.
    counted : bool
        False if they were known before.
    """
    if not any(np.isnan(n) for n in array.chunks[0]):
        return array, False
    column = array if array.ndim == 1 else array[:, :1]
    axes = list(range(1, array.ndim))
    lengths = column.map_blocks(_length, dtype=np.int64, drop_axis=axes, meta=np.empty(0, np.int64))
    known = copy.copy(array)
    # Like compute_chunk_sizes, but compute_chunk_sizes changes the caller's array and may use another scheduler.
    known._chunks = (tuple(int(n) for n in compute(lengths)), *array.chunks[1:])
    return known, True


def _length(block: Any) -> Array:
    return np.array([len(block)])


def _join(arrays: list[Array], axis: int) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


def dense(block: Any) -> Array:
    """Convert a block to a plain array.

    Raises
    ------
    UnsupportedDataError
        If the block is sparse, has masked values, or is not an array.
    """
    if hasattr(block, "toarray") or type(block).__module__.startswith("sparse"):
        raise UnsupportedDataError(
            "X: the blocks of this dask array are sparse. Gaussian mixtures need dense rows: "
            "x.map_blocks(lambda block: block.toarray())."
        )
    check_unmasked(
        block,
        " The dask array does not say that its blocks are masked, so missing='drop' needs NaN in them: "
        "X.astype('float64').map_blocks(numpy.ma.filled, numpy.nan).",
    )
    array = np.asarray(block)
    if not array.ndim:
        raise UnsupportedDataError(
            f"X: a block of this dask array is a {type(block).__name__}, not an array. Check what makes its blocks, "
            "for example what is passed to map_blocks."
        )
    return array
