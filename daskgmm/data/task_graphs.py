"""Small graphs of Dask's tasks, split and evaluated without a scheduler.

A graph is a dict of tasks by key. A task has ``dependencies``, and is called with a mapping of their values.
"""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Key = Any
Graph = dict[Key, Any]

_SHARED = -1


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause cyclic garbage collection while a large graph is made.

    While a graph grows, the collector searches all its objects again and again and finds no garbage, because all are in
    use: this takes two thirds of the time of making 100 000 tasks. If two threads pause the collector at the same time,
    the first that ends starts it again, which costs the other thread only time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def evaluate(graph: Graph, keys: Sequence[Key], given: Mapping[Key, Any]) -> list[Any]:
    """Compute the values of some keys of a small graph, in the calling thread.

    The bookkeeping of Dask's own schedulers would take longer than the tasks of most small blocks.

    Parameters
    ----------
    graph : dict of tasks
    keys : sequence
    given : mapping
        Value of every key that the tasks need and the graph does not contain.
    """
    uses = Counter(itertools.chain(keys, *(task.dependencies for task in graph.values())))
    values, done, stack = dict(given), set(given), list(keys)
    while stack:
        key = stack.pop()
        if key in done:
            continue
        task = graph[key]
        missing = task.dependencies - done
        if missing:
            stack += [key, *missing]
            continue
        values[key] = task(values)
        done.add(key)
        for dependency in task.dependencies:
            uses[dependency] -= 1
            if not uses[dependency]:
                del values[dependency]  # frees intermediate values as early as possible
    return [values[key] for key in keys]


def split_graph(graph: Graph, groups: Sequence[tuple[Key, ...]]) -> tuple[list[Graph], Graph]:
    """Split a graph into the tasks that one group of keys alone needs, for each group, and tasks that several need.

    Keys that are not in the graph are persisted on a cluster; they are in neither part.
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
        # A key that is marked as shared marks its dependencies, too: another group owns them, or none yet.
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


def upstream(keys: Iterable[Any], graph: Mapping[Any, Any], known: set[Any]) -> set[Any]:
    """Find keys and all their dependencies in a graph; the search stops at known keys."""
    visited, stack = set[Any](), list(keys)
    while stack:
        key = stack.pop()
        if key in graph and key not in known and key not in visited:
            visited.add(key)
            stack.extend(graph[key].dependencies)
    return visited
