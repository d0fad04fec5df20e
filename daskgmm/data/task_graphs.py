"""Small graphs of tasks as Dask makes them, split and evaluated without a scheduler.

A graph is a dict of tasks by their keys. A task has ``dependencies``, and is called with a mapping of their values.
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

    The collector goes through all objects made so far again and again while a graph grows, and finds nothing, because
    all of them are in use: that is two thirds of the time of making 100 000 tasks. If two threads do this at the same
    time, the first that ends lets the collector run again, which costs the other no more than time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def evaluate(graph: Graph, keys: Sequence[Key], given: Mapping[Key, Any]) -> list[Any]:
    """Values of some keys of a small graph, computed here and now.

    Dask's own schedulers would do it, too. Their bookkeeping takes longer than what most small blocks are made of.

    Parameters
    ----------
    graph : dict of tasks
    keys : sequence
    given : mapping
        Value of every key that the graph needs and does not hold.
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
                del values[dependency]  # so that no more of a block's intermediate values are alive than have to be
    return [values[key] for key in keys]


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


def upstream(keys: Iterable[Any], graph: Mapping[Any, Any], known: set[Any]) -> set[Any]:
    """Those keys and all that they depend on, as far as the graph holds them and they are not known."""
    found, stack = set[Any](), list(keys)
    while stack:
        key = stack.pop()
        if key in graph and key not in known and key not in found:
            found.add(key)
            stack.extend(graph[key].dependencies)
    return found
