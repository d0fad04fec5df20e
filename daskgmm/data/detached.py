"""Rows in memory as tasks of their own, so that they are sent to a cluster once and not with every pass.

What travels is never a result: rows as they are, or tasks that have yet to be done. A task of these depends on nothing,
so a scheduler that knows it can have it computed again when a worker is lost, which it cannot with scattered data.
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

_SMALL = 1 << 10  # bytes that any task may have for its arguments


def piece_bytes(total: int, tuning: Tuning) -> int:
    """Size of one task's value, about."""
    return int(np.clip(total // tuning.fewest_pieces, tuning.smallest_piece, tuning.largest_piece))


class Held:
    """Something that is held by a worker as it is: Dask looks neither into it nor for tasks among it.

    Parameters
    ----------
    value : object
    size : int
        Bytes, for a worker that has to decide when to spill.
    """

    __slots__ = ("_size", "value")

    def __init__(self, value: Any, size: int) -> None:
        self.value, self._size = value, size

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self._size


def held_tasks(values: Iterable[tuple[Any, int]]) -> Graph:
    """A task for each value and its size; the keys are new and come in the same order."""
    name = f"gmm-data-{uuid.uuid4().hex}"
    return {(name, i): DataNode((name, i), Held(value, size)) for i, (value, size) in enumerate(values)}


def carried(task: Any) -> int:
    """Bytes of the values that a task, or an argument of one, brings with it."""
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
    """A graph whose tasks bring little with them, and the tasks that hold what the large ones were.

    Parameters
    ----------
    graph : mapping of keys to tasks
    smallest : int
        Bytes from which on a task is large.
    """
    sizes = {key: size for key, task in graph.items() if (size := carried(task)) >= smallest}
    held = held_tasks((graph[key], size) for key, size in sizes.items())
    light = dict(graph)
    for key, where in zip(sizes, held, strict=True):
        needed = tuple(sorted(graph[key].dependencies, key=str))
        light[key] = Task(key, _perform, TaskRef(where), needed, *map(TaskRef, needed))
    return light, held


def _perform(held: Held, names: Sequence[Any], *values: Any) -> Any:
    """Do a task that was held, given the values of its dependencies."""
    return held.value(dict(zip(names, values, strict=True)))
