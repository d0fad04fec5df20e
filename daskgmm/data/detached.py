"""Rows in memory as separate tasks, sent to a cluster once instead of with every pass.

Only rows and tasks that are still to be computed are sent, never results. Such a task has no dependencies, so the
scheduler can have it computed again when a worker is lost, which is impossible with scattered data.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from dask.sizeof import sizeof
from dask.task_spec import Alias, DataNode, GraphNode, Task, TaskRef

from ..tuning import Tuning

Graph = dict[Any, Any]

_SMALL = 1 << 10  # bytes: smaller arguments of a task count as nothing


def piece_bytes(total: int, tuning: Tuning) -> int:
    """Approximate size of one task's value, in bytes."""
    return int(np.clip(total // tuning.fewest_pieces, tuning.smallest_piece, tuning.largest_piece))


class Held:
    """An opaque value that a worker holds: Dask neither inspects it nor looks for tasks in it.

    Parameters
    ----------
    value : object
    size : int
        Size in bytes, by which a worker decides when to spill.
    """

    __slots__ = ("_size", "value")

    def __init__(self, value: Any, size: int) -> None:
        self.value, self._size = value, size

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self._size


def held_tasks(values: Iterable[tuple[Any, int]]) -> Graph:
    """Make a task of each pair of value and size; the keys are new and in the same order."""
    name = f"gmm-data-{uuid.uuid4().hex}"
    return {(name, i): DataNode((name, i), Held(value, size)) for i, (value, size) in enumerate(values)}


def carried(task: Any) -> int:
    """Bytes of the values that a task, or an argument of a task, contains."""
    match task:
        case DataNode():
            return carried(task.value)
        case Task():
            return sum(map(carried, task.args)) + sum(map(carried, task.kwargs.values()))
        case Alias() | TaskRef() | GraphNode() | None | bool() | int() | float() | slice() | type():
            return 0
        case Mapping():
            return sum(map(carried, task.values()))
        case list() | tuple() | set() | frozenset():
            return sum(map(carried, task))
        case _ if isinstance(task, Callable):  # type: ignore[arg-type]
            return 0
    size = int(sizeof(task))
    return size if size >= _SMALL else 0


def detached_tasks(graph: Mapping[Any, Any], smallest: int) -> tuple[Graph, Graph]:
    """Move the large tasks of a graph into separate held tasks.

    Parameters
    ----------
    graph : mapping of keys to tasks
    smallest : int
        Least size of a large task, in bytes.

    Returns
    -------
    light : dict
        The graph, with a small task in the place of each large one.
    held : dict
        Tasks that hold the large ones.
    """
    sizes = {key: size for key, task in graph.items() if (size := carried(task)) >= smallest}
    held = held_tasks((graph[key], size) for key, size in sizes.items())
    light = dict(graph)
    for key, held_key in zip(sizes, held, strict=True):
        needed = tuple(sorted(graph[key].dependencies, key=str))
        light[key] = Task(key, _perform, TaskRef(held_key), needed, *map(TaskRef, needed))
    return light, held


def _perform(held: Held, names: Sequence[Any], *values: Any) -> Any:
    """Execute a held task with the values of its dependencies."""
    return held.value(dict(zip(names, values, strict=True)))
